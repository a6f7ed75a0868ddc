{{/*
What injection adds to a pod: the one source of the policy and of the manifest to copy.
Plain Kubernetes YAML; policy.yaml turns it into CEL, manifest.yaml prints it.
*/}}

{{- define "feedwater.injection.sidecar" -}}
name: feedwater
image: {{ include "feedwater.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
restartPolicy: Always
env:
  {{- /* The first: where the port is not free, the policy writes 0 there. */}}
  - name: FEEDWATER_HTTP_PORT
    value: {{ include "feedwater.port" . | quote }}
  {{- if ne .Values.sidecar.maxMode "auto" }}
  - name: FEEDWATER_MAX_MODE
    value: {{ .Values.sidecar.maxMode | quote }}
  {{- end }}
  {{- with .Values.sidecar.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
securityContext:
  {{- toYaml .Values.sidecar.securityContext | nindent 2 }}
volumeMounts:
  - name: feedwater
    mountPath: /run/feedwater
{{- end }}

{{- define "feedwater.port" -}}
{{ int .Values.sidecar.port }}
{{- end }}

{{/* Added to the sidecar unless it picks a free port. */}}
{{- define "feedwater.injection.ports" -}}
- name: feedwater
  containerPort: {{ include "feedwater.port" . }}
  protocol: TCP
{{- end }}

{{- define "feedwater.injection.livenessProbe" -}}
httpGet:
  path: /healthz
  port: feedwater
{{- toYaml .Values.sidecar.livenessProbe | nindent 0 }}
{{- end }}

{{- define "feedwater.injection.client" -}}
name: feedwater-client
image: {{ include "feedwater.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [feedwater, install-client, /opt/feedwater-client]
securityContext:
  {{- toYaml .Values.sidecar.securityContext | nindent 2 }}
volumeMounts:
  - name: feedwater-client
    mountPath: /opt/feedwater-client
{{- end }}

{{/*
Which pod it is, and its limits as Kubernetes knows them: that of a whole pod is invisible from inside its containers.
Without a divisor 1500m would come as 2.
*/}}
{{- define "feedwater.injection.trainerEnv" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: FEEDWATER_CPU_LIMIT_MILLICORES
  valueFrom:
    resourceFieldRef:
      resource: limits.cpu
      divisor: 1m
- name: FEEDWATER_MEMORY_LIMIT_BYTES
  valueFrom:
    resourceFieldRef:
      resource: limits.memory
{{- end }}

{{- define "feedwater.injection.mounts" -}}
- name: feedwater
  mountPath: /run/feedwater
{{- end }}

{{- define "feedwater.injection.clientMounts" -}}
- name: feedwater-client
  mountPath: /opt/feedwater-client
  readOnly: true
{{- end }}

{{- define "feedwater.injection.shmMounts" -}}
- name: feedwater-shm
  mountPath: /dev/shm
{{- end }}

{{- define "feedwater.injection.volumes" -}}
# In memory, so that the socket and the sidecar's state never touch a disk.
- name: feedwater
  emptyDir:
    medium: Memory
    sizeLimit: {{ include "feedwater.plain" .Values.sidecar.volume.sizeLimit }}
{{- end }}

{{- define "feedwater.injection.clientVolumes" -}}
- name: feedwater-client
  emptyDir:
    sizeLimit: {{ include "feedwater.plain" .Values.client.volume.sizeLimit }}
{{- end }}

{{- define "feedwater.injection.pythonPath" -}}
/opt/feedwater-client/site
{{- end }}
