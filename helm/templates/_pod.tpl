{{/*
The pod template of a Ray node. Arguments: root, group (head or an entry of workerGroups), name (of the group), component (head or worker).
The operator adds Ray's start command, its addresses, the token and, on workers, an init container.
*/}}
{{- define "expertmesh.rayPod" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $isHead := eq .component "head" -}}
metadata:
  labels:
    {{- include "expertmesh.podLabels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    expertmesh.io/group: {{ .name }}
    {{- with .group.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .group.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "expertmesh.serviceAccountName" $root }}
  # Only the autoscaler beside the head speaks with the API server.
  automountServiceAccountToken: {{ and $isHead $values.autoscaler.enabled }}
  # A Service named expertmesh would put EXPERTMESH_PORT and the like into the environment.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds | int64 }}
  {{- if $values.autoscaler.enabled }}
  restartPolicy: Never
  {{- end }}
  securityContext:
    {{- toYaml $values.podSecurityContext | nindent 4 }}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- range $field := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" "runtimeClassName" }}
  {{- with get $.group $field }}
  {{ $field }}: {{ toJson . }}
  {{- end }}
  {{- end }}
  {{- with include "expertmesh.initContainers" (dict "root" $root "isHead" $isHead) | trim }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ printf "ray-%s" .component }}
      image: {{ include "expertmesh.image" $root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      ports:
        {{- if $isHead }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        # The public Service finds its pods by these two names, so no other pod may have them.
        - {name: serve, containerPort: {{ include "expertmesh.httpPort" $root }}}
        - {name: serve-grpc, containerPort: {{ include "expertmesh.grpcPort" $root }}}
        {{- end }}
        - {name: metrics, containerPort: 8080}
      env:
        {{- include "expertmesh.env" $root | nindent 8 }}
      resources:
        {{- toYaml .group.resources | nindent 8 }}
      securityContext:
        {{- toYaml $values.containerSecurityContext | nindent 8 }}
      startupProbe:
        {{- include "expertmesh.probe" $values.probes.startup | nindent 8 }}
      livenessProbe:
        {{- include "expertmesh.probe" $values.probes.liveness | nindent 8 }}
      # Ours on workers too: the operator's would wait for an HTTP proxy, which workers do not have.
      readinessProbe:
        {{- include "expertmesh.probe" $values.probes.readiness | nindent 8 }}
      {{- if not $isHead }}
      lifecycle:
        # A node that says goodbye is known to be gone at once, not after missed heartbeats.
        preStop: {exec: {command: [/bin/sh, -c, ray stop]}}
      {{- end }}
      volumeMounts:
        {{- include "expertmesh.volumeMounts" $root | nindent 8 }}
        - {name: shared-memory, mountPath: /dev/shm}
        {{- if $isHead }}
        - {name: api-keys, mountPath: /etc/expertmesh/api-keys, readOnly: true}
        {{- end }}
  volumes:
    {{- include "expertmesh.volumes" $root | nindent 4 }}
    - name: shared-memory
      emptyDir: {medium: Memory, sizeLimit: {{ $values.sharedMemory.size }}}
    {{- if $isHead }}
    - name: api-keys
      secret:
        secretName: {{ include "expertmesh.apiKeySecret" $root }}
        defaultMode: 0440
        items: [{key: {{ $values.apiKeys.secretKey }}, path: keys}]
    {{- end }}
{{- end -}}

{{/* What must be true before Ray starts: this image reads the config, and the checkpoint is whole. */}}
{{- define "expertmesh.initContainers" -}}
{{- $values := .root.Values -}}
{{- if .isHead }}
- name: check-config
  {{- include "expertmesh.toolContainer" .root | nindent 2 }}
  command:
    - python
    - -c
    - from router.config import load_config; load_config("/etc/expertmesh/config/config.yaml")
{{- end }}
{{- if ne $values.model.storage.type "none" }}
- name: wait-for-model
  {{- include "expertmesh.toolContainer" .root | nindent 2 }}
  command: [/bin/sh, -c]
  args:
    - until expertmesh inspect "$0" --json > /dev/null; do sleep 10; done
    - {{ $values.config.model.path | quote }}
{{- end }}
{{- end -}}

{{/* The common part of a container that runs one of our own commands. */}}
{{- define "expertmesh.toolContainer" -}}
image: {{ include "expertmesh.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  {{- include "expertmesh.env" . | nindent 2 }}
resources:
  requests: {cpu: 100m, memory: 512Mi}
  limits: {memory: 1Gi}
securityContext:
  {{- toYaml .Values.containerSecurityContext | nindent 2 }}
volumeMounts:
  {{- include "expertmesh.volumeMounts" . | nindent 2 }}
{{- end -}}

{{- define "expertmesh.env" -}}
- {name: HOME, value: /home/expertmesh}
- {name: EXPERTMESH_CACHE, value: {{ eq .Values.model.storage.type "none" | ternary "/home/expertmesh/cache" "/models" }}}
- {name: RAY_worker_niceness, value: "0"}
- {name: RAY_gcs_rpc_server_reconnect_timeout_s, value: {{ .Values.gcsReconnectTimeoutSeconds | int64 | quote }}}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Ray's agent answers for its node; both roles have one. */}}
{{- define "expertmesh.probe" -}}
httpGet: {path: /api/healthz, port: 52365}
{{ toYaml . }}
{{- end -}}

{{- define "expertmesh.volumeMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: home, mountPath: /home/expertmesh}
- {name: config, mountPath: /etc/expertmesh/config, readOnly: true}
{{- if ne .Values.model.storage.type "none" }}
- {name: model, mountPath: /models, readOnly: true}
{{- end }}
{{- end -}}

{{- define "expertmesh.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.scratch.tmpSize }}}
- name: home
  emptyDir: {sizeLimit: {{ .Values.scratch.homeSize }}}
- name: config
  configMap: {name: {{ include "expertmesh.fullname" . }}}
{{- if ne .Values.model.storage.type "none" }}
{{ include "expertmesh.modelVolume" . }}
{{- end }}
{{- end -}}

{{- define "expertmesh.modelVolume" -}}
{{- if eq .Values.model.storage.type "hostPath" -}}
- name: model
  hostPath: {path: {{ .Values.model.storage.hostPath }}, type: Directory}
{{- else -}}
- name: model
  persistentVolumeClaim: {claimName: {{ include "expertmesh.modelClaim" . }}}
{{- end -}}
{{- end -}}
