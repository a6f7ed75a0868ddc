// Stands in for Grafana's own module, whose version that the linter asks for is not served by every module proxy.
module github.com/grafana/grafana/apps/dashboard

go 1.26.3
