{{/* Names, labels, the image, and what several objects share. */}}

{{- define "feedwater.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "feedwater.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "feedwater.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "feedwater.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "feedwater.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "feedwater.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: feedwater
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The name of an object, with its suffix in 63 characters. Takes root, suffix. */}}
{{- define "feedwater.objectName" -}}
{{- $name := include "feedwater.fullname" (index . 0) -}}
{{- with index . 1 -}}
{{ $name | trunc (int (sub 62 (len .))) | trimSuffix "-" }}-{{ . }}
{{- else -}}
{{ $name }}
{{- end -}}
{{- end }}

{{/* The start of `metadata`. Takes root, component, and perhaps suffix, labels, annotations. */}}
{{- define "feedwater.metadata" -}}
name: {{ include "feedwater.objectName" (list .root (default "" .suffix)) }}
labels:
  {{- $labels := mustMergeOverwrite (include "feedwater.labels" .root | fromYaml) (default dict .labels) }}
  {{- toYaml (set $labels "app.kubernetes.io/component" .component) | nindent 2 }}
{{- with mustMergeOverwrite (deepCopy .root.Values.commonAnnotations) (default dict .annotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "feedwater.image" -}}
{{- with .Values.image }}
{{- if .registry }}{{ .registry }}/{{ end }}{{ .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* "true" if an object is to be rendered. Takes root, `auto`, `always` or `never`, and the API that `auto` looks for. */}}
{{- define "feedwater.renders" -}}
{{- $wish := index . 1 -}}
{{- if or (eq $wish "always") (and (eq $wish "auto") ((index . 0).Capabilities.APIVersions.Has (index . 2))) -}}
true
{{- end -}}
{{- end }}

{{/* "true" if the policy that injects is rendered. */}}
{{- define "feedwater.injects" -}}
{{- include "feedwater.renders" (list . .Values.injection.render "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy") -}}
{{- end }}

{{- define "feedwater.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "feedwater.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* A number as it was written: YAML's are floats, and a large one would come as 2.68435456e+08. */}}
{{- define "feedwater.plain" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}
{{ printf "%.0f" . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end }}

{{/* The part that the chart's own pods have in common. Takes root, and the values that say where they may run. */}}
{{- define "feedwater.ownPod" -}}
{{- $root := index . 0 -}}
serviceAccountName: {{ include "feedwater.serviceAccountName" $root }}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  seccompProfile:
    type: RuntimeDefault
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- range $key, $place := pick (index . 1) "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- if $place }}
{{ dict $key $place | toYaml }}
{{- end }}
{{- end }}
{{- end }}

{{/* The part that their containers have in common. */}}
{{- define "feedwater.ownContainer" -}}
image: {{ include "feedwater.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.sidecar.securityContext | nindent 2 }}
{{- end }}
