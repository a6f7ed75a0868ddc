"""What Prometheus and Grafana load, as tables: the files of the chart are generated from this package."""
