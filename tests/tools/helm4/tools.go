//go:build tools

// Package tools pins helm4, as the tests build and run it.
package tools

import _ "helm.sh/helm/v4/cmd/helm"
