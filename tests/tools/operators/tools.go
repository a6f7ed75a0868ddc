//go:build tools

// Package tools pins the controllers that make Jobs of JobSets and TrainJobs.
package tools

import (
	_ "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager"
	_ "sigs.k8s.io/jobset"
)
