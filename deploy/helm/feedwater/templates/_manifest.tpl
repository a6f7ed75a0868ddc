{{/* What the policy does to a pod without annotations, but for what hangs on the pod itself, to be copied by hand or merged by kustomize. */}}
{{- define "feedwater.injection.manifest" -}}
{{- $addsClient := eq .Values.injection.client "inject" -}}
{{- $shmSize := include "feedwater.plain" .Values.injection.shmSize -}}
# Feedwater's sidecar{{ if $addsClient }} and client{{ end }}, for clusters that cannot inject them.
#
# Copy it into a pod, or into the template of a Job (spec.template), JobSet, PyTorchJob and so on. As a patch for kustomize
# it goes with pods and Jobs only: of kinds that are not Kubernetes' own, a patch replaces the list of containers whole.
# `trainer` is the name of the training container: put yours.
{{- if $addsClient }}
# The client needs no edit of the training image. Where the image has it (pip install feedwater), leave out the lines
# that say `client`.
{{- else }}
# The client is the training image's (pip install feedwater).
{{- end }}
# What hangs on the pod is yours to write: the workload's name (FEEDWATER_JOB among the trainer's variables), and less for the
# trainer, if the sidecar's resources are not to come on top.
metadata:
  labels:
    # Metrics are found by it. Where a cluster does inject, a pod that has the sidecar is left as it is.
    feedwater.dev/inject: "true"
spec:
  initContainers:
    # The sidecar, first: it starts before the trainer, ends after it, and training never waits for it.
    - {{ include "feedwater.injection.sidecar" . | nindent 6 | trim }}
      ports:
        {{- include "feedwater.injection.ports" . | nindent 8 }}
      livenessProbe:
        {{- include "feedwater.injection.livenessProbe" . | nindent 8 }}
      resources:
        {{- include "feedwater.injection.resources" .Values.sidecar.resources | nindent 8 }}
    {{- if $addsClient }}
    # client: lays the client into a volume, for whatever Python the training image has.
    - {{ include "feedwater.injection.client" . | nindent 6 | trim }}
      resources:
        {{- include "feedwater.injection.resources" (merge (dict "cpu" (include "feedwater.injection.clientCpu" .)) .Values.sidecar.resources) | nindent 8 }}
    {{- end }}
  containers:
    - name: trainer
      env:
        {{- include "feedwater.injection.trainerEnv" . | nindent 8 }}
        - name: FEEDWATER_MODE
          value: {{ .Values.injection.mode | quote }}
        {{- if $addsClient }}
        # client: if PYTHONPATH is set already, in the pod or in the image, put its value behind, after a colon.
        - name: PYTHONPATH
          value: {{ include "feedwater.injection.pythonPath" . }}
        {{- end }}
      volumeMounts:
        {{- include "feedwater.injection.mounts" . | nindent 8 }}
        {{- if $addsClient }}
        # client
        {{- include "feedwater.injection.clientMounts" . | nindent 8 }}
        {{- end }}
        {{- if $shmSize }}
        # Not where the container mounts /dev/shm already.
        {{- include "feedwater.injection.shmMounts" . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "feedwater.injection.volumes" . | nindent 4 }}
    {{- if $addsClient }}
    # client
    {{- include "feedwater.injection.clientVolumes" . | nindent 4 }}
    {{- end }}
    {{- with $shmSize }}
    - name: feedwater-shm
      emptyDir:
        medium: Memory
        sizeLimit: {{ . }}
    {{- end }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
{{- end }}

{{/* Requests and limits alike. Takes cpu, memory. */}}
{{- define "feedwater.injection.resources" -}}
requests:
  cpu: {{ include "feedwater.plain" .cpu }}
  memory: {{ include "feedwater.plain" .memory }}
limits:
  cpu: {{ include "feedwater.plain" .cpu }}
  memory: {{ include "feedwater.plain" .memory }}
{{- end }}

{{/* What the policy calls clientCpu, for a pod without annotations. */}}
{{- define "feedwater.injection.clientCpu" -}}
{{- $ofSidecar := include "feedwater.plain" .Values.sidecar.resources.cpu -}}
{{- $own := include "feedwater.plain" .Values.client.cpu -}}
{{- $isMore := gt (include "feedwater.amount" $ofSidecar | float64) (include "feedwater.amount" $own | float64) -}}
{{- or (eq $ofSidecar "0") $isMore | ternary $ofSidecar $own -}}
{{- end }}
