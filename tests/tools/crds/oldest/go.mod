// Never built: the oldest definitions that the examples are known to fit.
module feedwater.dev/tests/tools/crds/oldest

go 1.26.0

require (
	github.com/kubeflow/trainer/v2 v2.0.0
	github.com/kubeflow/training-operator v1.8.1
	sigs.k8s.io/jobset v0.8.0
)
