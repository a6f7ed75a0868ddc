{{/*
A value as a CEL literal. Unlike Object{}, maps and lists can be used in variables and in lists.
Kubernetes' CEL wants their elements to be of one type: where they are not all strings, dyn() hides it.
*/}}
{{- define "feedwater.cel" -}}
{{- if kindIs "map" . -}}
{{- $mixed := include "feedwater.cel.mixed" (values .) -}}
{ {{- $comma := "" -}}
{{- range $key, $value := . -}}
{{ $comma }}{{ $key | quote }}: {{ include "feedwater.cel.element" (list $mixed $value) }}
{{- $comma = ", " -}}
{{- end -}} }
{{- else if kindIs "slice" . -}}
{{- $mixed := include "feedwater.cel.mixed" . -}}
[ {{- $comma := "" -}}
{{- range . -}}
{{ $comma }}{{ include "feedwater.cel.element" (list $mixed .) }}
{{- $comma = ", " -}}
{{- end -}} ]
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end }}

{{- define "feedwater.cel.mixed" -}}
{{- if gt (len .) 1 -}}
{{- range . -}}{{- if not (kindIs "string" .) -}}mixed{{- end -}}{{- end -}}
{{- end -}}
{{- end }}

{{- define "feedwater.cel.element" -}}
{{- $literal := include "feedwater.cel" (index . 1) -}}
{{- if index . 0 -}}dyn({{ $literal }}){{- else -}}{{ $literal }}{{- end -}}
{{- end }}

{{/* JSON Patch operations that append each of a list, written in YAML. Takes list, path. */}}
{{- define "feedwater.cel.append" -}}
[
{{- range $index, $value := .list | fromYamlArray }}
{{- if $index }},{{ end }}
  JSONPatch{op: "add", path: {{ $.path }}, value: {{ include "feedwater.cel" $value }}}
{{- end }}
]
{{- end }}

{{/* A path without what does not count in it: slashes at its end, two in a row. Takes CEL. */}}
{{- define "feedwater.cel.path" -}}
"/" + {{ . }}.split("/").filter(part, part != "" && part != ".").join("/")
{{- end }}
