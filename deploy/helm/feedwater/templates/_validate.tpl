{{/*
Ends the rendering with a sentence for each value that makes no sense. What a schema can say in plain words
(values.schema.json: types, choices, unknown names) is said there.
*/}}
{{- define "feedwater.validate" -}}
{{- $problems := list -}}
{{- range $path, $mode := dict "injection.mode" .Values.injection.mode "sidecar.maxMode" .Values.sidecar.maxMode -}}
{{- if kindIs "bool" $mode -}}
{{- $problems = append $problems (printf "%s: expected \"off\", observe, advise or auto, got %t: YAML takes off for false unless it is in quotes" $path $mode) -}}
{{- else if not (has $mode (list "off" "observe" "advise" "auto")) -}}
{{- $problems = append $problems (printf "%s: expected off, observe, advise or auto, got %q" $path $mode) -}}
{{- end -}}
{{- end -}}
{{- range $path, $bounds := dict
    "sidecar.resources.cpu" (list .Values.sidecar.resources.cpu "50m" "4" "0")
    "sidecar.resources.memory" (list .Values.sidecar.resources.memory "64Mi" "4Gi" "0")
    "sidecar.volume.sizeLimit" (list .Values.sidecar.volume.sizeLimit "8Mi" "4Gi" "")
    "client.cpu" (list .Values.client.cpu "50m" "4" "")
    "client.volume.sizeLimit" (list .Values.client.volume.sizeLimit "64Mi" "64Gi" "") -}}
{{- with include "feedwater.validate.amount" $bounds -}}
{{- $problems = append $problems (printf "%s: %s" $path .) -}}
{{- end -}}
{{- end -}}
{{- range $path, $name := dict "nameOverride" .Values.nameOverride "fullnameOverride" .Values.fullnameOverride "serviceAccount.name" .Values.serviceAccount.name -}}
{{- if and $name (not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" $name)) -}}
{{- $problems = append $problems (printf "%s: expected lower-case letters, digits and hyphens, with no hyphen at either end, got %q" $path $name) -}}
{{- end -}}
{{- end -}}
{{- range $path, $time := dict "podMonitor.interval" .Values.podMonitor.interval "podMonitor.scrapeTimeout" .Values.podMonitor.scrapeTimeout -}}
{{- if and $time (not (regexMatch "^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$" (toString $time))) -}}
{{- $problems = append $problems (printf "%s: expected a time with its unit, as 30s or 1m, got \"%v\"" $path $time) -}}
{{- end -}}
{{- end -}}
{{- with .Values.image -}}
{{- if and .digest (not (regexMatch "^sha256:[0-9a-f]{64}$" .digest)) -}}
{{- $problems = append $problems (printf "image.digest: expected sha256: and 64 hexadecimal digits, got %q" .digest) -}}
{{- end -}}
{{- if and .tag (not (regexMatch "^[A-Za-z0-9_][A-Za-z0-9_.-]*$" .tag)) -}}
{{- $problems = append $problems (printf "image.tag: expected letters, digits and _ . -, got %q" .tag) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z0-9]+([._-]+[a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$" .repository) -}}
{{- $problems = append $problems (printf "image.repository: expected a lower-case name without a tag, as team/feedwater, got %q" .repository) -}}
{{- end -}}
{{- end -}}
{{- $own := list "FEEDWATER_MAX_MODE" "FEEDWATER_SOCKET" "FEEDWATER_HTTP_PORT" -}}
{{- range .Values.sidecar.extraEnv -}}
{{- if has .name $own -}}
{{- $problems = append $problems (printf "sidecar.extraEnv: %s is the chart's to set%s" .name (eq .name "FEEDWATER_MAX_MODE" | ternary ": use sidecar.maxMode" "")) -}}
{{- end -}}
{{- if and (hasKey . "value") (hasKey . "valueFrom") -}}
{{- $problems = append $problems (printf "sidecar.extraEnv: %s has both a value and a valueFrom: keep one" .name) -}}
{{- end -}}
{{- end -}}
{{- range .Values.prometheusRule.disabledAlerts -}}
{{- if not (contains (printf "- alert: %s\n" .) ($.Files.Get "files/prometheus/feedwater.alerts.yaml")) -}}
{{- $problems = append $problems (printf "prometheusRule.disabledAlerts: there is no alert %q" .) -}}
{{- end -}}
{{- end -}}
{{- if not (regexMatch "^https?://[^\\s\"\\\\]+$" .Values.prometheusRule.runbookBaseUrl) -}}
{{- $problems = append $problems (printf "prometheusRule.runbookBaseUrl: expected an address that begins with https:// or http://, without blanks, quotes and backslashes, got %q" .Values.prometheusRule.runbookBaseUrl) -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.from) -}}
{{- $problems = append $problems "networkPolicy.from: expected at least one peer; an empty list would let everybody scrape" -}}
{{- end -}}
{{- if $problems -}}
{{- fail (printf "\n\nValues that make no sense:\n  %s\n" (join "\n  " $problems)) -}}
{{- end -}}
{{- end }}

{{/* Empty, or what is wrong with an amount. Takes amount, lowest, highest, and an amount that is allowed beside them. */}}
{{- define "feedwater.validate.amount" -}}
{{- $amount := index . 0 | toString -}}
{{- $size := include "feedwater.amount" $amount -}}
{{- $low := include "feedwater.amount" (index . 1) | float64 -}}
{{- $high := include "feedwater.amount" (index . 2) | float64 -}}
{{- if not (or (and (index . 3) (eq $amount (index . 3))) (and $size (ge (float64 $size) $low) (le (float64 $size) $high))) -}}
expected {{ index . 1 }} to {{ index . 2 }}{{ if index . 3 }}, or {{ index . 3 }} for no limit{{ end }}, got {{ $amount | quote }}
{{- end -}}
{{- end }}

{{/* A quantity of Kubernetes as a number; empty if it is none. */}}
{{- define "feedwater.amount" -}}
{{- if regexMatch "^[0-9]+([.][0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$" . -}}
{{- $units := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexFind "[A-Za-z]*$" .)) -}}
{{- end -}}
{{- end }}
