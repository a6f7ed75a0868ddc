//go:build tools

// Package tools pins helm3, as the tests build and run it.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
