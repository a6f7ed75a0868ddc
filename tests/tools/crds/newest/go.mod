// Never built: the modules carry the definitions of the kinds that the examples and the chart use.
module feedwater.dev/tests/tools/crds/newest

go 1.26.0

require (
	github.com/kubeflow/trainer/v2 v2.3.0
	github.com/kubeflow/training-operator v1.9.3
	github.com/prometheus-operator/prometheus-operator v0.93.0
	sigs.k8s.io/jobset v0.12.0
)
