//go:build tools

// Package tools pins the programs of a Kubernetes cluster, as the tests build and run them. They share most of
// their packages (of kwok's 975 all but 76), so that one module for all compiles in little more than the time
// that the API server takes.
package tools

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "sigs.k8s.io/kwok/cmd/kwok"
)
