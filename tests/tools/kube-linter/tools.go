//go:build tools

// Package tools pins kube-linter, as the tests build and run it.
package tools

import _ "golang.stackrox.io/kube-linter/cmd/kube-linter"
