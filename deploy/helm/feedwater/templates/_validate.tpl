{{/*
Ends the rendering with a sentence for each value that makes no sense. What a schema can say in plain words
(values.schema.json: types, choices, unknown names) is said there.
*/}}
{{- define "feedwater.validate" -}}
{{- $problems := list -}}
{{- range $kind := list "modes" "texts" "environment" "objects" "choices" -}}
{{- $problems = concat $problems (include (printf "feedwater.validate.%s" $kind) $ | splitList "\n" | compact) -}}
{{- end -}}
{{- if $problems -}}
{{- fail (printf "\n\nValues that make no sense:\n  %s\n" (join "\n  " $problems)) -}}
{{- end -}}
{{- end }}

{{- define "feedwater.validate.modes" -}}
{{- range $path, $mode := dict "injection.mode" .Values.injection.mode "sidecar.maxMode" .Values.sidecar.maxMode -}}
{{- if kindIs "bool" $mode }}
{{ $path }}: expected "off", observe, advise or auto, got {{ $mode }}: YAML takes off for false unless it is in quotes
{{- else if not (has $mode (list "off" "observe" "advise" "auto")) }}
{{ $path }}: expected off, observe, advise or auto, got {{ $mode | quote }}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
What texts and amounts must be. `of`: where they are; a path that ends at a map means its keys, one that ends in * its
values, and a list is each of its elements. Then `fits` (a regular expression) and `expected` (the same in words); or the
bounds `from` and `to`, what they are `in`, and what is allowed beside them: `or`, with its `words`.
*/}}
{{- define "feedwater.validate.table" -}}
{{- $label := "[a-z0-9]([-a-z0-9]*[a-z0-9])?" -}}
{{- $dotted := printf "%s([.]%s)*" $label $label -}}
{{- $key := printf "(%s/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?" $dotted -}}
{{- $host := printf "%s(:[0-9]+)?" $dotted -}}
{{- $path := "[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*" -}}
{{- $interval := include "feedwater.plain" .Values.podMonitor.interval -}}
{{- $hasInterval := include "feedwater.seconds" $interval | float64 | ne 0.0 -}}
- of: [nameOverride, fullnameOverride, podMonitor.namespace, prometheusRule.namespace, dashboards.namespace, networkPolicy.namespaces]
  fits: '^({{ $label }})?$'
  expected: lower-case letters, digits and hyphens, with no hyphen at either end
- of:
    - image.pullSecrets
    - serviceAccount.name
    - prepull.priorityClassName
    - sidecar.extraEnv.valueFrom.configMapKeyRef.name
    - sidecar.extraEnv.valueFrom.secretKeyRef.name
  fits: '^({{ $dotted }})?$'
  expected: lower-case letters, digits, hyphens and dots, with a letter or digit at either end
- of:
    - commonLabels
    - commonAnnotations
    - injection.namespaceSelector.matchLabels
    - injection.namespaceSelector.matchExpressions.key
    - injection.workloadLabels
    - podMonitor.additionalLabels
    - prometheusRule.additionalLabels
    - dashboards.label
    - dashboards.annotations
    - networkPolicy.from.*.matchLabels
    - networkPolicy.from.*.matchExpressions.key
    - prepull.nodeSelector
    - prepull.podAnnotations
    - serviceAccount.annotations
    - tests.nodeSelector
  fits: '^{{ $key }}$'
  expected: a name as Kubernetes has them for labels, as team or example.com/team
- of:
    - commonLabels.*
    - injection.namespaceSelector.matchLabels.*
    - injection.namespaceSelector.matchExpressions.values
    - podMonitor.additionalLabels.*
    - prometheusRule.additionalLabels.*
    - dashboards.labelValue
    - networkPolicy.from.*.matchLabels.*
    - networkPolicy.from.*.matchExpressions.values
    - prepull.nodeSelector.*
    - tests.nodeSelector.*
  fits: '^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$'
  expected: at most 63 letters, digits and - _ . with a letter or digit at either end
- of: [prometheusRule.additionalAlertLabels]
  fits: '^[A-Za-z_][A-Za-z0-9_]*$'
  expected: letters, digits and _ with no digit in front
- of: [sidecar.extraEnv.name]
  fits: '^[A-Za-z_][-._A-Za-z0-9]*$'
  expected: letters, digits and - _ . with a letter or _ in front
- of: [sidecar.extraEnv.valueFrom.configMapKeyRef.key, sidecar.extraEnv.valueFrom.secretKeyRef.key]
  fits: '^[-._A-Za-z0-9]+$'
  expected: letters, digits and - _ .
- of: [sidecar.extraEnv.valueFrom.fieldRef.fieldPath]
  fits: '^(metadata[.](name|namespace|uid|(labels|annotations)\[''{{ $key }}''\])|spec[.](nodeName|serviceAccountName)|status[.](hostIPs?|podIPs?))$'
  expected: a field that the Downward API gives to variables, as spec.nodeName
- of: [image.registry]
  fits: '^({{ $host }}(/{{ $path }})*)?$'
  expected: a host, with its port and a path if need be, but no https:// and no slash at the end, as registry.example.com
- of: [image.repository]
  fits: '^{{ if not .Values.image.registry }}({{ $host }}/)?{{ end }}{{ $path }}(/{{ $path }})*$'
  expected: a lower-case name without a tag, as team/feedwater
- of: [image.tag]
  fits: '^([A-Za-z0-9_][A-Za-z0-9_.-]*)?$'
  expected: letters, digits and _ . -
- of: [image.digest]
  fits: '^(sha256:[0-9a-f]{64})?$'
  expected: 'sha256: and 64 hexadecimal digits'
- of: [prometheusRule.runbookBaseUrl]
  fits: '^(https?://[^\s"\\]+)?$'
  expected: an address that begins with https:// or http://, without blanks, quotes and backslashes, or nothing
- of: [prepull.resources.requests, prepull.resources.limits]
  fits: '^{{ $key }}$'
  expected: the name of a resource, as cpu
- of: [prepull.resources.requests.*, prepull.resources.limits.*]
  fits: '^{{ include "feedwater.amount.pattern" . }}$'
  expected: an amount, as 100m or 32Mi
- {of: [sidecar.resources.cpu], in: amount, from: 50m, to: "4", or: "0", words: ", or 0 for no limit"}
- {of: [sidecar.resources.memory], in: amount, from: 64Mi, to: 4Gi, or: "0", words: ", or 0 for no limit"}
- {of: [sidecar.volume.sizeLimit], in: amount, from: 8Mi, to: 4Gi}
- {of: [injection.shmSize], in: amount, from: 1Mi, to: 4Ti, or: "", words: ", or nothing for none"}
- {of: [client.cpu], in: amount, from: 50m, to: "4"}
- {of: [client.volume.sizeLimit], in: amount, from: 64Mi, to: 64Gi}
- {of: [sidecar.livenessProbe.timeoutSeconds], in: amount, from: "1", to: "{{ .Values.sidecar.livenessProbe.periodSeconds }}", words: " (periodSeconds)"}
# The rules need a scrape in two minutes, and Prometheus takes no timeout above the interval.
- {of: [podMonitor.interval], in: seconds, from: 1s, to: 2m, or: ""}
- {of: [podMonitor.scrapeTimeout], in: seconds, from: 1s, to: "{{ $hasInterval | ternary $interval "2m" }}", or: "", words: "{{ if $hasInterval }} (podMonitor.interval){{ end }}"}
{{- end }}

{{- define "feedwater.validate.texts" -}}
{{- range $row := include "feedwater.validate.table" . | fromYamlArray -}}
{{- range $row.of -}}
{{- include "feedwater.validate.below" (dict "row" $row "path" "" "value" $.Values "keys" (splitList "." .)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A sentence for each text below a value that is not what a row of the table says. Takes row, path, value, keys: the way on. */}}
{{- define "feedwater.validate.below" -}}
{{- $here := . -}}
{{- if kindIs "slice" .value -}}
{{- range $index, $element := .value -}}
{{- include "feedwater.validate.below" (dict "row" $here.row "path" (printf "%s[%d]" $here.path $index) "value" $element "keys" $here.keys) -}}
{{- end -}}
{{- else if kindIs "map" .value -}}
{{- range $key, $value := .value -}}
{{- if not $here.keys -}}
{{- include "feedwater.validate.text" (dict "row" $here.row "path" $here.path "text" $key) -}}
{{- else if has (first $here.keys) (list "*" $key) -}}
{{- $path := printf "%s.%s" $here.path $key | trimPrefix "." -}}
{{- include "feedwater.validate.below" (dict "row" $here.row "path" $path "value" $value "keys" (rest $here.keys)) -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- include "feedwater.validate.text" (dict "row" .row "path" .path "text" (include "feedwater.plain" .value)) -}}
{{- end -}}
{{- end }}

{{/* Empty, or the sentence about one text. Takes row, path, text. */}}
{{- define "feedwater.validate.text" -}}
{{- if hasKey .row "fits" -}}
{{- if not (regexMatch .row.fits .text) }}
{{ .path }}: expected {{ .row.expected }}, got {{ .text | quote }}
{{- end -}}
{{- else -}}
{{- $reads := printf "feedwater.%s" .row.in -}}
{{- $size := include $reads .text -}}
{{- $isWithin := and $size (ge (float64 $size) (include $reads .row.from | float64)) (le (float64 $size) (include $reads .row.to | float64)) -}}
{{- if not (or $isWithin (and (hasKey .row "or") (eq .text .row.or))) }}
{{ .path }}: expected {{ .row.from }} to {{ .row.to }}{{ default "" .row.words }}, got {{ .text | quote }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "feedwater.validate.environment" -}}
{{- $own := dict "FEEDWATER_MAX_MODE" ": use sidecar.maxMode" "FEEDWATER_SOCKET" "" "FEEDWATER_HTTP_PORT" ": use sidecar.port" -}}
{{- $names := list -}}
{{- range .Values.sidecar.extraEnv -}}
{{- if hasKey $own .name }}
sidecar.extraEnv: {{ .name }} is the chart's to set{{ get $own .name }}
{{- end -}}
{{- if and (hasKey . "value") (hasKey . "valueFrom") }}
sidecar.extraEnv: {{ .name }} has both a value and a valueFrom: keep one
{{- end -}}
{{- if has .name $names }}
sidecar.extraEnv: {{ .name }} is there twice: keep one
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end }}

{{- define "feedwater.validate.objects" -}}
{{- range $index, $object := .Values.extraObjects -}}
{{- $text := tpl (kindIs "string" $object | ternary $object (toYaml $object)) $ -}}
{{- range regexSplit "(?m)^---" $text -1 -}}
{{- with fromYaml . -}}
{{- if not (and .apiVersion .kind) }}
extraObjects[{{ $index }}]: expected an object with apiVersion and kind, got {{ $text | trim | trunc 60 | quote }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "feedwater.validate.choices" -}}
{{- range .Values.prometheusRule.disabledAlerts -}}
{{- if not (contains (printf "- alert: %s\n" .) ($.Files.Get "files/prometheus/feedwater.alerts.yaml")) }}
prometheusRule.disabledAlerts: there is no alert {{ . | quote }}
{{- end -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.from) }}
networkPolicy.from: expected at least one peer; an empty list would let everybody scrape
{{- end -}}
{{- if hasKey .Values.commonLabels "feedwater.dev/inject" }}
commonLabels: feedwater.dev/inject is for training pods, and would inject the chart's own
{{- end -}}
{{- end }}

{{/* A quantity of Kubernetes as a number; empty if it is none. */}}
{{- define "feedwater.amount" -}}
{{- if regexMatch (printf "^%s$" (include "feedwater.amount.pattern" .)) . -}}
{{- $units := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexFind "[A-Za-z]*$" .)) -}}
{{- end -}}
{{- end }}

{{- define "feedwater.amount.pattern" -}}
[0-9]+([.][0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?
{{- end }}

{{/* A time of Prometheus, as 1m30s, in seconds; empty if it is none. */}}
{{- define "feedwater.seconds" -}}
{{- if regexMatch "^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$" . -}}
{{- $seconds := 0.0 -}}
{{- range regexFindAll "[0-9]+(ms|[hms])" . -1 -}}
{{- $seconds = addf $seconds (mulf (regexFind "^[0-9]+" . | float64) (get (dict "h" 3600 "m" 60 "s" 1 "ms" 0.001) (regexFind "[a-z]+$" .))) -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}
{{- end }}
