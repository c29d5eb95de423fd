"""The monitor: do the patients that are served still look like those that the model learned from?"""
