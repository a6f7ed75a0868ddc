//go:build tools

// Package tools pins helm-unittest, as the tests build and run it.
package tools

import _ "github.com/helm-unittest/helm-unittest/cmd/helm-unittest"
