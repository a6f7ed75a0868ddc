{{/* The JSON Patch that injects, as one CEL list. */}}
{{- define "feedwater.injection.patch" -}}
{{- $sidecar := include "feedwater.injection.sidecar" . | fromYaml -}}
(has(object.spec.volumes) ? [] : [JSONPatch{op: "add", path: "/spec/volumes", value: []}]) +
{{ include "feedwater.cel.append" (dict "list" (include "feedwater.injection.volumes" .) "path" "\"/spec/volumes/-\"") }} +
(variables.addsClient ? {{ include "feedwater.cel.append" (dict "list" (include "feedwater.injection.clientVolumes" .) "path" "\"/spec/volumes/-\"") }} : []) +
(variables.addsShm ? [
  JSONPatch{op: "add", path: "/spec/volumes/-", value: {"name": dyn("feedwater-shm"), "emptyDir": dyn({"medium": "Memory", "sizeLimit": variables.shmSize})}}
] : []) +
(has(object.spec.initContainers) ? [] : [JSONPatch{op: "add", path: "/spec/initContainers", value: []}]) +
(variables.addsClient ? [
  JSONPatch{op: "add", path: "/spec/initContainers/0", value: {{ include "feedwater.cel" (include "feedwater.injection.client" . | fromYaml) }}}
] : []) +
(variables.addsClient && variables.addsResources ? [
  JSONPatch{op: "add", path: "/spec/initContainers/0/resources", value: variables.clientResources}
] : []) +
[
  JSONPatch{op: "add", path: "/spec/initContainers/0", value: {{ include "feedwater.cel" $sidecar }}}
] +
(variables.addsResources ? [
  JSONPatch{op: "add", path: "/spec/initContainers/0/resources", value: variables.resources}
] : []) +
(variables.picksPort ? [
  JSONPatch{op: "replace", path: "/spec/initContainers/0/env/0/value", value: "0"}
] : [
  JSONPatch{op: "add", path: "/spec/initContainers/0/ports", value: {{ include "feedwater.cel" (include "feedwater.injection.ports" . | fromYamlArray) }}},
  JSONPatch{op: "add", path: "/spec/initContainers/0/livenessProbe", value: {{ include "feedwater.cel" (include "feedwater.injection.livenessProbe" . | fromYaml) }}}
]) +
{{- range include "feedwater.ownAmounts" . | fromYamlArray }}
(variables.takesResources && "{{ .name }}" in {{ .of }} ? [
  JSONPatch{op: "replace", path: variables.containerPath + "/resources/{{ .list }}/{{ .name }}", value: {{ include "feedwater.cel.difference" . }}}
] : []) +
{{- end }}
(has(variables.container.volumeMounts) ? [] : [JSONPatch{op: "add", path: variables.containerPath + "/volumeMounts", value: []}]) +
{{ include "feedwater.cel.append" (dict "list" (include "feedwater.injection.mounts" .) "path" "variables.containerPath + \"/volumeMounts/-\"") }} +
(variables.addsClient ? {{ include "feedwater.cel.append" (dict "list" (include "feedwater.injection.clientMounts" .) "path" "variables.containerPath + \"/volumeMounts/-\"") }} : []) +
(variables.addsShm ? {{ include "feedwater.cel.append" (dict "list" (include "feedwater.injection.shmMounts" .) "path" "variables.containerPath + \"/volumeMounts/-\"") }} : []) +
(has(variables.container.env) ? [] : [JSONPatch{op: "add", path: variables.containerPath + "/env", value: []}]) +
{{- range include "feedwater.injection.trainerEnv" . | fromYamlArray }}
({{ toJson .name }} in variables.envNames ? [] : [JSONPatch{op: "add", path: variables.containerPath + "/env/-", value: {{ include "feedwater.cel" . }}}]) +
{{- end }}
("FEEDWATER_MODE" in variables.envNames ? [] : [
  JSONPatch{op: "add", path: variables.containerPath + "/env/-", value: {"name": "FEEDWATER_MODE", "value": variables.mode}}]) +
("FEEDWATER_JOB" in variables.envNames || variables.workload.size() == 0 ? [] : [
  JSONPatch{op: "add", path: variables.containerPath + "/env/-", value: {"name": "FEEDWATER_JOB", "value": variables.workload[0]}}]) +
(!variables.addsClient ? [] : variables.pythonPathIndex < 0 ? [
  JSONPatch{op: "add", path: variables.containerPath + "/env/-", value: {"name": "PYTHONPATH", "value": "{{ include "feedwater.injection.pythonPath" . }}"}}
] : [
  JSONPatch{op: "add", path: variables.containerPath + "/env/" + string(variables.pythonPathIndex) + "/value",
    value: "{{ include "feedwater.injection.pythonPath" . }}" + variables.env[variables.pythonPathIndex][?"value"].optMap(old, old == "" ? "" : ":" + old).orValue("")}
])
{{- with .Values.image.pullSecrets }}
+ (has(object.spec.imagePullSecrets) ? [] : [JSONPatch{op: "add", path: "/spec/imagePullSecrets", value: []}])
{{- end }}
{{- range .Values.image.pullSecrets }}
+ (has(object.spec.imagePullSecrets) && object.spec.imagePullSecrets.exists(secret, secret.name == {{ toJson . }}) ? [] : [
  JSONPatch{op: "add", path: "/spec/imagePullSecrets/-", value: {"name": {{ toJson . }}}}])
{{- end }}
{{- end }}

{{/* What is left of an amount without the sidecar's. CEL's quantities have no text of their own: cores
are rounded to thousandths, bytes down to Mi. */}}
{{- define "feedwater.cel.difference" -}}
{{- $left := printf "quantity(%s.%s).sub(quantity(variables.%s))" .of .name .name -}}
{{- if eq .name "cpu" -}}
string(int({{ $left }}.asApproximateFloat() * 1000.0 + 0.5)) + "m"
{{- else -}}
string(int({{ $left }}.asApproximateFloat() / 1048576.0)) + "Mi"
{{- end -}}
{{- end }}

{{/* Requests and limits alike. Takes the CPU, as CEL. */}}
{{- define "feedwater.cel.resources" -}}
{{- $amounts := printf "{\"cpu\": %s, \"memory\": variables.sidecarMemory}" . -}}
{"requests": {{ $amounts }}, "limits": {{ $amounts }}}
{{- end }}
