"""Who may ask a service: keys in a file, read again when it changes. Which scopes there are, the service says."""
