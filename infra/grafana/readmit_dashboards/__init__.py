"""Grafana's dashboards as code. `python -m readmit_dashboards write` makes `infra/grafana/dashboards` from it."""
