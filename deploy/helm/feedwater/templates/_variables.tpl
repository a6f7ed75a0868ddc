{{/*
What both policies read out of a pod, in CEL. `pod` is the pod, or the template of a Job.
`problems` is empty, or says why the pod starts as it was written; `cautions` what is done only in part.
*/}}
{{- define "feedwater.variables" -}}
- name: annotations
  expression: 'has(variables.pod.metadata.annotations) ? variables.pod.metadata.annotations : {}'
- name: labels
  expression: 'has(variables.pod.metadata.labels) ? variables.pod.metadata.labels : {}'
- name: mode
  expression: {{ include "feedwater.annotation" (list "mode" .Values.injection.mode) }}
- name: client
  expression: {{ include "feedwater.annotation" (list "client" .Values.injection.client) }}
- name: cpu
  expression: {{ include "feedwater.annotation" (list "cpu" (include "feedwater.plain" .Values.sidecar.resources.cpu)) }}
- name: memory
  expression: {{ include "feedwater.annotation" (list "memory" (include "feedwater.plain" .Values.sidecar.resources.memory)) }}
- name: resourcesAre
  expression: {{ include "feedwater.annotation" (list "resources" .Values.injection.resources) }}
# Empty or 0: the pod keeps what it has at /dev/shm.
- name: shmSize
  expression: {{ include "feedwater.annotation" (list "shm-size" (include "feedwater.plain" .Values.injection.shmSize)) }}
- name: workload
  expression: |-
    (
      [variables.annotations[?"feedwater.dev/workload"]] +
      {{ toJson .Values.injection.workloadLabels }}.map(key, variables.labels[?key])
    ).filter(name, name.hasValue()).map(name, string(name.value()))
# The training container: -1 where the pod has none of that name.
- name: containerNames
  expression: 'variables.pod.spec.containers.map(container, container.name)'
- name: containerName
  expression: 'variables.annotations[?"feedwater.dev/container"].orValue(variables.containerNames[0])'
- name: containerIndex
  expression: 'variables.containerNames.indexOf(variables.containerName)'
- name: container
  expression: 'variables.containerIndex < 0 ? {} : variables.pod.spec.containers[variables.containerIndex]'
- name: env
  expression: 'has(variables.container.env) ? variables.container.env : []'
- name: envNames
  expression: 'variables.env.map(variable, variable.name)'
# Of two variables of one name the last one holds.
- name: pythonPathIndex
  expression: 'variables.envNames.lastIndexOf("PYTHONPATH")'
# A PYTHONPATH that the kubelet looks up cannot be put behind another.
- name: pythonPathIsLookedUp
  expression: 'variables.pythonPathIndex >= 0 && has(variables.env[variables.pythonPathIndex].valueFrom)'
- name: addsClient
  expression: 'variables.client == "inject" && !variables.pythonPathIsLookedUp'
- name: mounts
  expression: 'has(variables.container.volumeMounts) ? variables.container.volumeMounts : []'
- name: mountPaths
  expression: 'variables.mounts.map(mount, {{ include "feedwater.cel.path" "mount.mountPath" }})'
# The container runtime makes the directory that a volume is mounted on. In a volume that is itself mounted above, it can for
# certain only where that is empty and writable: others are read-only, or somebody else's to write into.
- name: emptyVolumes
  expression: 'has(variables.pod.spec.volumes) ? variables.pod.spec.volumes.filter(volume, has(volume.emptyDir)).map(volume, volume.name) : []'
- name: closedMountPaths
  expression: |-
    variables.mounts.filter(mount, !(mount.name in variables.emptyVolumes) || (has(mount.readOnly) && mount.readOnly)).map(mount,
      {{ include "feedwater.cel.path" "mount.mountPath" }})
- name: addsShm
  expression: '!(variables.shmSize in ["", "0"]) && !("/dev/shm" in variables.mountPaths)'
- name: isForWindows
  expression: |-
    (has(variables.pod.spec.os) && variables.pod.spec.os.name == "windows") ||
    (has(variables.pod.spec.nodeSelector) && variables.pod.spec.nodeSelector[?"kubernetes.io/os"].orValue("") == "windows")
- name: usesHostNetwork
  expression: 'has(variables.pod.spec.hostNetwork) && variables.pod.spec.hostNetwork'
- name: allContainers
  expression: 'variables.pod.spec.containers + (has(variables.pod.spec.initContainers) ? variables.pod.spec.initContainers : [])'
# Containers that want the sidecar's port for themselves: it would start first and hold it.
- name: portHolders
  expression: |-
    variables.allContainers.filter(container, container.name != "feedwater" && has(container.ports) && container.ports.exists(port,
      port.containerPort == {{ include "feedwater.port" . }} && (!has(port.protocol) || port.protocol == "TCP"))).map(container, container.name)
# Under hostNetwork all pods of a node share its ports.
- name: picksPort
  expression: 'variables.usesHostNetwork || variables.portHolders.size() > 0'
# A container of the sidecar's name that is not the sidecar.
- name: nameIsTaken
  expression: |-
    variables.allContainers.exists(container, container.name == "feedwater" && !(
      has(container.volumeMounts) && container.volumeMounts.exists(mount, {{ include "feedwater.cel.path" "mount.mountPath" }} == "/run/feedwater")))
# A pod of the class BestEffort stays one, unless its annotations ask for more. One whose resources are stated for the whole
# pod shares them: what is added there could exceed them, and the pod would be refused.
- name: hasPodResources
  expression: 'has(variables.pod.spec.resources)'
- name: amountAnnotations
  expression: '["feedwater.dev/cpu", "feedwater.dev/memory"].filter(key, key in variables.annotations)'
- name: isBestEffort
  expression: |-
    variables.allContainers.all(container, !has(container.resources) || (
      (!has(container.resources.requests) || ["cpu", "memory"].all(name, {{ include "feedwater.isNone" "container.resources.requests" }})) &&
      (!has(container.resources.limits) || ["cpu", "memory"].all(name, {{ include "feedwater.isNone" "container.resources.limits" }}))
    ))
- name: addsResources
  expression: 'variables.hasPodResources || variables.amountAnnotations.size() > 0 || !variables.isBestEffort'
- name: ownRequests
  expression: 'has(variables.container.resources) && has(variables.container.resources.requests) ? variables.container.resources.requests : {}'
- name: ownLimits
  expression: 'has(variables.container.resources) && has(variables.container.resources.limits) ? variables.container.resources.limits : {}'
- name: takesResources
  expression: 'variables.resourcesAre == "taken" && variables.addsResources && !variables.hasPodResources'
- name: volumeNames
  expression: 'has(variables.pod.spec.volumes) ? variables.pod.spec.volumes.map(volume, volume.name) : []'
- name: addedVolumes
  expression: '["feedwater"] + (variables.addsClient ? ["feedwater-client"] : []) + (variables.addsShm ? ["feedwater-shm"] : [])'
- name: addedMountPaths
  expression: '["/run/feedwater"] + (variables.addsClient ? ["/opt/feedwater-client"] : [])'
- name: problems
  expression: |-
    (variables.containerIndex >= 0 ? [] : [
      "feedwater.dev/container: the pod has no container \"" + variables.containerName + "\"; it has " + variables.containerNames.join(", ")]) +
    (variables.mode in ["off", "observe", "advise", "auto"] ? [] : [
      "feedwater.dev/mode: expected off, observe, advise or auto, got \"" + variables.mode + "\""]) +
    (variables.client in ["inject", "image"] ? [] : [
      "feedwater.dev/client: expected inject or image, got \"" + variables.client + "\""]) +
    (variables.workload.all(name, name != "") ? [] : [
      "feedwater.dev/workload: expected a name, got \"\""]) +
    {{- include "feedwater.checkedQuantity" (dict "annotation" "cpu" "low" "50m" "high" "4" "none" ", or 0 for no limit") | nindent 4 }} +
    {{- include "feedwater.checkedQuantity" (dict "annotation" "memory" "low" "64Mi" "high" "4Gi" "none" ", or 0 for no limit") | nindent 4 }} +
    ("feedwater.dev/shm-size" in variables.annotations ?
      {{- include "feedwater.checkedQuantity" (dict "annotation" "shm-size" "variable" "shmSize" "low" "1Mi" "high" "4Ti" "none" ", or 0 for none") | nindent 6 }} : []) +
    (variables.resourcesAre in ["added", "taken"] ? [] : [
      "feedwater.dev/resources: expected added or taken, got \"" + variables.resourcesAre + "\""]) +
    {{- range include "feedwater.ownAmounts" . | fromYamlArray }}
    (variables.takesResources && "{{ .name }}" in {{ .of }}{{ if eq .list "limits" }} && !("{{ .name }}" in variables.ownRequests){{ end }} && isQuantity(variables.{{ .name }}) &&
      quantity({{ .of }}.{{ .name }}).sub(quantity(variables.{{ .name }})).isLessThan(quantity("{{ .least }}")) ? [
      "feedwater.dev/resources: {{ .list }}.{{ .name }} of container \"" + variables.containerName + "\" is " + {{ .of }}.{{ .name }} +
      ", and " + variables.{{ .name }} + " cannot be taken from it"] : []) +
    {{- end }}
    variables.addedVolumes.filter(name, name in variables.volumeNames).map(name,
      "the pod has a volume \"" + name + "\" of its own: give it another name") +
    variables.addedMountPaths.filter(path, variables.mountPaths.exists(mount, mount == path || mount.startsWith(path + "/"))).map(path,
      "container \"" + variables.containerName + "\" mounts a volume of its own at " + path + ": mount it elsewhere") +
    variables.addedMountPaths.filter(path, variables.closedMountPaths.exists(mount, path.startsWith(mount + "/"))).map(path,
      "container \"" + variables.containerName + "\" mounts a volume above " + path + ", in which that cannot be made: mount it elsewhere" +
      (path.startsWith("/opt/") ? ", or install feedwater in the image and set feedwater.dev/client to image" : "")) +
    (variables.nameIsTaken ? [
      "the pod has a container \"feedwater\" already, which mounts nothing at /run/feedwater: give it another name"] : []) +
    (variables.allContainers.exists(container, container.name == "feedwater-client") ? [
      "the pod has a container \"feedwater-client\" of its own: give it another name"] : []) +
    (variables.isForWindows ? ["the pod is one for Windows"] : [])
- name: cautions
  expression: |-
    (variables.client == "inject" && variables.pythonPathIsLookedUp ? [
      "PYTHONPATH of container \"" + variables.containerName + "\" comes by valueFrom, so Feedwater's client is not added to it: " +
      "give PYTHONPATH a value, or install feedwater in the image and set feedwater.dev/client to image"] : []) +
    (variables.usesHostNetwork ? [] : variables.portHolders.map(name,
      "container \"" + name + "\" has port {{ include "feedwater.port" . }}, so the sidecar picks a free one, which no PodMonitor finds: " +
      "give the container another port, or the chart another sidecar.port")) +
    (variables.hasPodResources ? variables.amountAnnotations.map(key,
      key + " is left out: the pod's resources are stated for the whole of it (spec.resources), and the sidecar shares them; " +
      "raise those, and take the annotation away") : []) +
    variables.annotations.filter(key, key.startsWith("feedwater.dev/") && !(key.substring(14) in [
      "mode", "container", "client", "workload", "cpu", "memory", "resources", "shm-size"
    ])).map(key, "there is no annotation " + key)
{{- end }}

{{/*
The amounts of the training container that the sidecar's can be taken from, and the least that must be left of each: less
is rounded to 0, which means without a limit.
*/}}
{{- define "feedwater.ownAmounts" -}}
- {of: variables.ownRequests, list: requests, name: cpu, least: 1m}
- {of: variables.ownRequests, list: requests, name: memory, least: 1Mi}
- {of: variables.ownLimits, list: limits, name: cpu, least: 1m}
- {of: variables.ownLimits, list: limits, name: memory, least: 1Mi}
{{- end }}

{{/* An annotation's value. Takes name, default. */}}
{{- define "feedwater.annotation" -}}
{{- printf "variables.annotations[?%q].orValue(%q)" (printf "feedwater.dev/%s" (index . 0)) (index . 1) | squote }}
{{- end }}

{{/* No amount of `name` is stated in the CEL map `.`. */}}
{{- define "feedwater.isNone" -}}
!(name in {{ . }}) || !quantity({{ . }}[name]).isGreaterThan(quantity("0"))
{{- end }}

{{/*
Empty, or the sentence about an amount that is malformed or out of bounds. The bounds catch a forgotten unit:
cpu "250" is 250 cores, memory "128" is 128 bytes, and either would keep the pod from starting.
*/}}
{{- define "feedwater.checkedQuantity" -}}
{{- $value := printf "variables.%s" (default .annotation .variable) -}}
({{ if .none }}{{ $value }} == "0" || {{ end }}(isQuantity({{ $value }}) &&
  !quantity({{ $value }}).isLessThan(quantity("{{ .low }}")) && !quantity({{ $value }}).isGreaterThan(quantity("{{ .high }}"))) ? [] : [
  "feedwater.dev/{{ .annotation }}: expected {{ .low }} to {{ .high }}{{ .none }}, got \"" + {{ $value }} + "\""])
{{- end }}
