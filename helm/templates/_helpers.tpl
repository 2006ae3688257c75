{{/* Names, labels and values that several templates share. */}}

{{- define "expertmesh.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The operator refuses RayService names of more than 47 characters, and others append to ours. */}}
{{- define "expertmesh.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "expertmesh.name" .) .Release.Name -}}
{{- .Release.Name | trunc 47 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "expertmesh.name" .) | trunc 47 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.labels" -}}
app.kubernetes.io/name: {{ include "expertmesh.name" . }}
{{ include "expertmesh.podLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of pods and their selectors. `app.kubernetes.io/name` of a Ray pod belongs to the operator: its head
service selects by it. */}}
{{- define "expertmesh.podLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: expertmesh
{{- end -}}

{{- define "expertmesh.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default (printf "%s-%s" .Chart.AppVersion .Values.image.variant) .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "expertmesh.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.apiKeySecret" -}}
{{- default (printf "%s-api-keys" (include "expertmesh.fullname" .)) .Values.apiKeys.existingSecret -}}
{{- end -}}

{{- define "expertmesh.modelClaim" -}}
{{- if eq .Values.model.storage.type "existingClaim" -}}
{{- .Values.model.storage.existingClaim -}}
{{- else -}}
{{- printf "%s-model" (include "expertmesh.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.httpPort" -}}
{{- int (default 8000 (dig "edge" "http" "port" nil .Values.config)) -}}
{{- end -}}

{{- define "expertmesh.grpcPort" -}}
{{- int (default 9000 (dig "edge" "grpc" "port" nil .Values.config)) -}}
{{- end -}}

{{/* The Ray resources of a node as `ray start --resources` wants them inside a shell word: '{"expert": 8}'. */}}
{{- define "expertmesh.rayResources" -}}
{{- printf "'%s'" (toJson .) -}}
{{- end -}}
