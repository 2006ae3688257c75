{{/*
Refuses values that the schema cannot judge: what the operator would refuse after installation, and what would
leave actors waiting for resources that no node has. Each message names the value and what to do.
*/}}
{{- define "expertmesh.validate" -}}
{{- include "expertmesh.validateNames" . -}}
{{- include "expertmesh.validateGroups" . -}}
{{- include "expertmesh.validateConfig" . -}}
{{- include "expertmesh.validateEdge" . -}}
{{- include "expertmesh.validateStorage" . -}}
{{- include "expertmesh.validateResources" . -}}
{{- end -}}

{{- define "expertmesh.validateNames" -}}
{{- $name := include "expertmesh.fullname" . -}}
{{- if gt (len $name) 47 -}}
{{- fail (printf "fullnameOverride: %q has %d characters; the operator takes at most 47" $name (len $name)) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the name %q must start with a letter and hold only lower-case letters, digits and '-'; set fullnameOverride" $name) -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.validateGroups" -}}
{{- include "expertmesh.validateRayResources" (dict "name" "head" "resources" .Values.head.rayResources) -}}
{{- range $name, $group := .Values.workerGroups -}}
{{- include "expertmesh.validateRayResources" (dict "name" (printf "workerGroups.%s" $name) "resources" $group.rayResources) -}}
{{- if eq $name "head" -}}
{{- fail "workerGroups.head: the name of the head node's own group" -}}
{{- end -}}
{{- if $group.enabled -}}
{{- if gt (int $group.minReplicas) (int $group.maxReplicas) -}}
{{- fail (printf "workerGroups.%s: minReplicas %d is above maxReplicas %d" $name (int $group.minReplicas) (int $group.maxReplicas)) -}}
{{- end -}}
{{- if or (lt (int $group.replicas) (int $group.minReplicas)) (gt (int $group.replicas) (int $group.maxReplicas)) -}}
{{- fail (printf "workerGroups.%s: replicas %d is not between minReplicas %d and maxReplicas %d" $name (int $group.replicas) (int $group.minReplicas) (int $group.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.validateRayResources" -}}
{{- range $resource := list "CPU" "GPU" "memory" -}}
{{- if hasKey $.resources $resource -}}
{{- fail (printf "%s.rayResources: %s follows from resources, it is not set here" $.name $resource) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.validateConfig" -}}
{{- $config := .Values.config -}}
{{- if ne (default "cluster" $config.form) "cluster" -}}
{{- fail (printf "config.form: the chart runs a cluster, not %q; one GPU is values-1gpu.yaml" $config.form) -}}
{{- end -}}
{{- $drain := float64 (dig "attention" "drain_timeout_s" 120 $config) -}}
{{- if gt $drain (float64 .Values.terminationGracePeriodSeconds) -}}
{{- fail (printf "terminationGracePeriodSeconds: %v is shorter than config.attention.drain_timeout_s, %v" .Values.terminationGracePeriodSeconds $drain) -}}
{{- end -}}
{{- $ports := dig "experts" "port_range" (list 0 0) $config -}}
{{- if gt (int (index $ports 0)) (int (index $ports 1)) -}}
{{- fail (printf "config.experts.port_range: %v ends before it starts" $ports) -}}
{{- end -}}
{{- if and (ge (int (index $ports 1)) 10002) (le (int (index $ports 0)) 19999) -}}
{{- fail (printf "config.experts.port_range: %v overlaps 10002 to 19999, where Ray's own workers listen" $ports) -}}
{{- end -}}
{{- range $port := list 6379 8080 8265 10001 52365 (include "expertmesh.httpPort" . | int) (include "expertmesh.grpcPort" . | int) -}}
{{- if and (ge $port (int (index $ports 0))) (le $port (int (index $ports 1))) -}}
{{- fail (printf "config.experts.port_range: %v holds port %d, which Ray or the edge listens on" $ports $port) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.gcsFaultTolerance.enabled (not .Values.gcsFaultTolerance.redisAddress) -}}
{{- fail "gcsFaultTolerance.redisAddress: wanted, as host:port, when gcsFaultTolerance is enabled" -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if has .name (list "REDIS_PASSWORD" "REDIS_USERNAME" "RAY_REDIS_ADDRESS" "RAY_enable_autoscaler_v2") -}}
{{- fail (printf "extraEnv: %s is the operator's; use gcsFaultTolerance or autoscaler" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.validateEdge" -}}
{{- $edge := default dict .Values.config.edge -}}
{{- range $server := list "http" "grpc" -}}
{{- $host := dig $server "host" "127.0.0.1" $edge -}}
{{- if or (hasPrefix "127." $host) (eq $host "localhost") (eq $host "::1") -}}
{{- fail (printf "config.edge.%s.host: a Service cannot reach %s; set 0.0.0.0" $server $host) -}}
{{- end -}}
{{- end -}}
{{- range $port := list (include "expertmesh.httpPort" . | int) (include "expertmesh.grpcPort" . | int) -}}
{{- if or (has $port (list 0 6379 8080 8265 10001 52365)) (and (ge $port 10002) (le $port 19999)) -}}
{{- fail (printf "config.edge: port %d is Ray's, or no fixed port" $port) -}}
{{- end -}}
{{- end -}}
{{- if eq (include "expertmesh.httpPort" .) (include "expertmesh.grpcPort" .) -}}
{{- fail (printf "config.edge: HTTP and gRPC both want port %s" (include "expertmesh.httpPort" .)) -}}
{{- end -}}
{{- if dig "auth" "api_keys" list $edge -}}
{{- fail "config.edge.auth.api_keys: keys do not belong in the values; put them into a Secret and name it in apiKeys.existingSecret" -}}
{{- end -}}
{{- if ne (dig "auth" "api_keys_file" "" $edge) "/etc/expertmesh/api-keys/keys" -}}
{{- fail "config.edge.auth.api_keys_file: must be /etc/expertmesh/api-keys/keys, where the Secret of apiKeys is mounted" -}}
{{- end -}}
{{- end -}}

{{- define "expertmesh.validateStorage" -}}
{{- $storage := .Values.model.storage -}}
{{- if and (eq $storage.type "existingClaim") (not $storage.existingClaim) -}}
{{- fail "model.storage.existingClaim: wanted when model.storage.type is existingClaim" -}}
{{- end -}}
{{- if and (eq $storage.type "hostPath") (not $storage.hostPath) -}}
{{- fail "model.storage.hostPath: wanted when model.storage.type is hostPath" -}}
{{- end -}}
{{- if and (eq $storage.type "none") (ne (dig "model" "path" "tiny" .Values.config) "tiny") -}}
{{- fail (printf "model.storage.type: none holds no checkpoint, and config.model.path is %q" .Values.config.model.path) -}}
{{- end -}}
{{- if and .Values.model.fetch.enabled (has $storage.type (list "none" "hostPath")) -}}
{{- fail (printf "model.fetch.enabled: nothing is fetched into storage of type %q" $storage.type) -}}
{{- end -}}
{{- end -}}

{{/* Ray starts what it has resources for and leaves the rest waiting without a word, so count first. */}}
{{- define "expertmesh.validateResources" -}}
{{- $config := .Values.config -}}
{{- $most := int (dig "experts" "scaling" "max_workers" 0 $config) -}}
{{- $workers := max (int (dig "experts" "num_workers" 4 $config)) $most -}}
{{- $replicas := max (int (dig "attention" "min_replicas" 1 $config)) (int (dig "attention" "max_replicas" 1 $config)) -}}
{{- $wanted := dict -}}
{{- range $resource, $amount := dig "experts" "worker_resources" dict $config -}}
{{- $_ := set $wanted $resource (mulf (float64 $amount) $workers) -}}
{{- end -}}
{{- range $resource, $amount := dig "attention" "replica_resources" (dict "attention" 0.001) $config -}}
{{- $_ := set $wanted $resource (addf (float64 (default 0 (get $wanted $resource))) (mulf (float64 $amount) $replicas)) -}}
{{- end -}}
{{- range $resource, $amount := $wanted -}}
{{- $offered := float64 (include "expertmesh.offered" (dict "values" $.Values "resource" $resource)) -}}
{{- if gt (float64 $amount) $offered -}}
{{- fail (printf "config wants %v of the Ray resource %q (up to %d expert workers and %d attention replicas), the nodes offer %v; raise replicas, rayResources or GPUs" $amount $resource $workers $replicas $offered) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* How much of a Ray resource all nodes together offer, at their most. */}}
{{- define "expertmesh.offered" -}}
{{- $sum := float64 (include "expertmesh.nodeOffers" (dict "group" .values.head "resource" .resource)) -}}
{{- range $name, $group := .values.workerGroups -}}
{{- if $group.enabled -}}
{{- $nodes := ternary $group.maxReplicas $group.replicas $.values.autoscaler.enabled -}}
{{- $node := float64 (include "expertmesh.nodeOffers" (dict "group" $group "resource" $.resource)) -}}
{{- $sum = addf $sum (mulf $node (float64 $nodes)) -}}
{{- end -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{- define "expertmesh.nodeOffers" -}}
{{- if eq .resource "GPU" -}}
{{- dig "limits" "nvidia.com/gpu" 0 (default dict .group.resources) -}}
{{- else -}}
{{- get (default dict .group.rayResources) .resource | default 0 -}}
{{- end -}}
{{- end -}}
