{{/*
Rules that values.schema.json cannot express, or cannot explain: its error for a name of a property says neither where it is nor
what is wrong, and for a pattern repeats the value, which may be a secret. The error of each rule names the value, says what is
wrong with it and what to do.
*/}}
{{- define "akri-http.rules" -}}
{{- include "akri-http.rules.handler" . -}}
{{- include "akri-http.rules.labels" . -}}
{{- $seen := dict -}}
{{- range $index, $configuration := .Values.configurations -}}
{{- $at := printf "configurations[%d]" $index -}}
{{- $with := dict "root" $ "configuration" $configuration "at" $at -}}
{{- include "akri-http.rules.name" $with -}}
{{- if hasKey $seen $configuration.name -}}
{{- fail (printf "%s.name: another Configuration is already called %q; give each Configuration a different name." $at $configuration.name) -}}
{{- end -}}
{{- $_ := set $seen $configuration.name true -}}
{{- if $.Values.handler.check -}}
{{- include "akri-http.rules.details" $with -}}
{{- end -}}
{{- include "akri-http.rules.properties" $with -}}
{{- include "akri-http.rules.broker" $with -}}
{{- end -}}
{{- include "akri-http.rules.grpcClient" . -}}
{{- include "akri-http.rules.readings" . -}}
{{- include "akri-http.rules.prometheusRule" . -}}
{{- include "akri-http.rules.cluster" . -}}
{{- end -}}

{{/*
A time, of which the schema knows only the form, from `least` (100ms by default) to `most` milliseconds. Takes `at`, `time`,
`most`, and `limit`, the text for `most`.
*/}}
{{- define "akri-http.rules.time" -}}
{{- $amount := include "akri-http.milliseconds" .time | int64 -}}
{{- $least := .least | default "100ms" -}}
{{- if or (lt $amount (include "akri-http.milliseconds" $least | int64)) (gt $amount (int64 .most)) -}}
{{- fail (printf "%s: %q is not a time from %s to %s." .at .time $least .limit) -}}
{{- end -}}
{{- end -}}

{{/* A time in milliseconds. */}}
{{- define "akri-http.milliseconds" -}}
{{- $factor := get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) (regexFind "[a-z]+$" .) -}}
{{- mul (regexFind "^[0-9]+" . | atoi) $factor -}}
{{- end -}}

{{/* An admin port that is on. Takes `at`, `port`, `env`, and `taken`, the other ports. */}}
{{- define "akri-http.rules.admin" -}}
{{- if has (int .port) .taken -}}
{{- fail (printf "%s.adminPort: the container already uses port %d; choose another one, or 0 for none." .at (int .port)) -}}
{{- end -}}
{{- range .env -}}
{{- if eq .name "ADMIN_ADDRESS" -}}
{{- fail (printf "%s.env: the chart sets ADMIN_ADDRESS itself; set %s.adminPort instead." $.at $.at) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "akri-http.rules.handler" -}}
{{- with .Values.handler -}}
{{- if eq .name "agent-registration" -}}
{{- fail "handler.name: the handler's socket gets this name, so it must not be agent-registration, the name of the Agent's socket." -}}
{{- end -}}
{{- include "akri-http.rules.time" (dict "at" "handler.pollInterval" "time" .pollInterval "most" 86400000 "limit" "24h") -}}
{{- include "akri-http.rules.time" (dict "at" "handler.pollTimeout" "time" .pollTimeout "most" 600000 "limit" "10m") -}}
{{- include "akri-http.rules.time" (dict "at" "handler.state.maxAge" "time" .state.maxAge "least" "1s" "most" 31536000000 "limit" "8760h") -}}
{{- include "akri-http.rules.time" (dict "at" "handler.grace" "time" .grace "least" "0s" "most" 86400000 "limit" "24h") -}}
{{- if .adminPort -}}
{{- include "akri-http.rules.admin" (dict "at" "handler" "port" .adminPort "env" .env "taken" (.network.enabled | ternary (list 10000) list)) -}}
{{- end -}}
{{- if and .standby .network.enabled -}}
{{- fail "handler.standby: it needs handler.network.enabled=false, because two containers of a Pod cannot both use port 10000; turn one of them off." -}}
{{- end -}}
{{- include "akri-http.rules.credentials" (dict "at" "handler" "credentials" .credentials "env" .env) -}}
{{- $rolling := .updateStrategy.rollingUpdate | default dict -}}
{{- $none := list "0" "0%" -}}
{{- if not (has (toString ($rolling.maxSurge | default 0)) $none) -}}
{{- if and .hostNetwork (or .adminPort .network.enabled) (ne .updateStrategy.type "OnDelete") -}}
{{- fail "handler.hostNetwork: the new handler of an update cannot use the node's ports beside the old one; set handler.updateStrategy.rollingUpdate to maxSurge 0 and maxUnavailable 1, or turn adminPort and network off." -}}
{{- end -}}
{{- if not (has (toString ($rolling.maxUnavailable | default 0)) $none) -}}
{{- fail (printf "handler.updateStrategy: Kubernetes allows maxSurge %v only with maxUnavailable 0, but maxUnavailable is %v; set it to 0." $rolling.maxSurge $rolling.maxUnavailable) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels of the chart. Two of the same name make invalid YAML, or lose a Pod to its selector. */}}
{{- define "akri-http.rules.labels" -}}
{{- $with := dict "root" . "component" "" -}}
{{- $own := keys (include "akri-http.labels" $with | fromYaml) -}}
{{- $ofPods := keys (include "akri-http.selector" $with | fromYaml) -}}
{{- range $rule := list (list "commonLabels" .Values.commonLabels $own) (list "podMonitor.labels" .Values.podMonitor.labels $own) (list "prometheusRule.labels" .Values.prometheusRule.labels $own) (list "grafanaDashboard.labels" .Values.grafanaDashboard.labels $own) (list "handler.podLabels" .Values.handler.podLabels $ofPods) (list "grpcClient.podLabels" .Values.grpcClient.podLabels $ofPods) (list "readings.podLabels" .Values.readings.podLabels $ofPods) -}}
{{- range $key, $_ := index $rule 1 -}}
{{- if has $key (index $rule 2) -}}
{{- fail (printf "%s: the chart sets the label %s itself; choose another key." (index $rule 0) $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Akri's longest names are NAME-HASH-svc, with a HASH of 6 characters, and NAME-HASH-GENERATION-job. The limit is 63. The schema
knows what is true of every name.
*/}}
{{- define "akri-http.rules.name" -}}
{{- $broker := .configuration.broker | default dict -}}
{{- $name := .configuration.name -}}
{{- if and (eq ($broker.workload | default "Pod") "Job") (gt (len $name) 49) -}}
{{- fail (printf "%s.name: %q has %d characters; use at most 49 with a Job, because Akri appends to the name." .at $name (len $name)) -}}
{{- end -}}
{{- $instance := include "akri-http.brokerService" (dict "broker" $broker "service" "instanceService") -}}
{{- $all := include "akri-http.brokerService" (dict "broker" $broker "service" "configurationService") -}}
{{- if and (or $instance $all) (regexMatch "^[0-9]" $name) -}}
{{- fail (printf "%s.name: %q begins with a digit, but the name of a Service must not; choose another name, or turn the Services off." .at $name) -}}
{{- end -}}
{{- end -}}

{{- define "akri-http.rules.details" -}}
{{- $details := .configuration.discoveryDetails -}}
{{- $url := $details -}}
{{- if kindIs "map" $details -}}
{{- $url = $details.url -}}
{{- with $details.interval -}}
{{- include "akri-http.rules.time" (dict "at" (printf "%s.discoveryDetails.interval" $.at) "time" . "most" 86400000 "limit" "24h") -}}
{{- end -}}
{{- with $details.timeout -}}
{{- include "akri-http.rules.time" (dict "at" (printf "%s.discoveryDetails.timeout" $.at) "time" . "most" 600000 "limit" "10m") -}}
{{- end -}}
{{- with $details.grace -}}
{{- include "akri-http.rules.time" (dict "at" (printf "%s.discoveryDetails.grace" $.at) "time" . "least" "0s" "most" 86400000 "limit" "24h") -}}
{{- end -}}
{{- end -}}
{{- /* The URL may contain a password, so the error does not repeat it. */ -}}
{{- if not (regexMatch "^https?://[^\\s/][^\\s]*$" $url) -}}
{{- fail (printf "%s.discoveryDetails: this is not the URL of a discovery service; it must begin with http:// or https:// and must not contain spaces." .at) -}}
{{- end -}}
{{- end -}}

{{- define "akri-http.rules.properties" -}}
{{- range $index, $property := .configuration.discoveryProperties -}}
{{- $at := printf "%s.discoveryProperties[%d]" $.at $index -}}
{{- if eq (hasKey . "value") (hasKey . "valueFrom") -}}
{{- fail (printf "%s: %q must have either a value or a valueFrom." $at .name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .configuration.brokerProperties -}}
{{- if not (regexMatch "^[_A-Za-z][_A-Za-z0-9]*$" $name) -}}
{{- fail (printf "%s.brokerProperties: %q cannot be the name of an environment variable; use letters, digits and '_', and do not begin with a digit." $.at $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "akri-http.rules.broker" -}}
{{- $broker := .configuration.broker | default dict -}}
{{- include "akri-http.rules.podSpec" . -}}
{{- $grpc := eq ($broker.kind | default "standalone") "grpc" -}}
{{- range $key := list "instanceService" "configurationService" -}}
{{- $service := get $broker $key -}}
{{- if and $service (not $grpc) (not $service.ports) (not (eq (toString $service.enabled) "false")) -}}
{{- fail (printf "%s.broker.%s: ports are missing; only a broker of kind grpc has a default port." $.at $key) -}}
{{- end -}}
{{- end -}}
{{- if $grpc -}}
{{- range $broker.env -}}
{{- if and (eq .name "GRPC_ENDPOINT") (hasKey . "value") (not (hasSuffix (printf ":%s" (include "akri-http.grpcPort" $)) .value)) -}}
{{- fail (printf "%s.broker.env: GRPC_ENDPOINT is %q, but the probes and the Services need port %s; to change the port of a Service, set its ports." $.at .value (include "akri-http.grpcPort" $)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "akri-http.rules.credentials" (dict "at" (printf "%s.broker" .at) "credentials" $broker.credentials "env" $broker.env) -}}
{{- $port := include "akri-http.brokerAdminPort" $broker | int -}}
{{- if $port -}}
{{- $taken := $grpc | ternary (list (include "akri-http.grpcPort" . | int)) list -}}
{{- range $broker.ports -}}
{{- $taken = append $taken (int .containerPort) -}}
{{- end -}}
{{- include "akri-http.rules.admin" (dict "at" (printf "%s.broker" .at) "port" $port "env" $broker.env "taken" $taken) -}}
{{- end -}}
{{- if eq ($broker.workload | default "Pod") "Job" -}}
{{- if $grpc -}}
{{- fail (printf "%s.broker: a broker of kind grpc never ends, so it cannot be a Job; remove kind if your own image runs to completion." .at) -}}
{{- end -}}
{{- if or $broker.instanceService $broker.configurationService -}}
{{- fail (printf "%s.broker: Akri makes Services for Pods only; remove instanceService and configurationService from the Job." .at) -}}
{{- end -}}
{{- if not $broker.image -}}
{{- fail (printf "%s.broker: the %s broker never ends, so it cannot be a Job; set broker.image to an image that runs to completion." .at ($broker.kind | default "standalone")) -}}
{{- end -}}
{{- else if $broker.job -}}
{{- fail (printf "%s.broker.job: this broker is a Pod; set workload to Job, or remove job." .at) -}}
{{- end -}}
{{- end -}}

{{/* What a broker's podSpec must not say, and the keys of 0.1.0 that it has replaced. */}}
{{- define "akri-http.rules.podSpec" -}}
{{- $broker := .configuration.broker | default dict -}}
{{- $gone := dict "podSecurityContext" "podSpec.securityContext" -}}
{{- range list "automountServiceAccountToken" "serviceAccountName" "terminationGracePeriodSeconds" "volumes" -}}
{{- $_ := set $gone . (printf "podSpec.%s" .) -}}
{{- end -}}
{{- range list "securityContext" "volumeMounts" -}}
{{- $_ := set $gone . (printf "podSpec.containers: [{name: broker, %s: ...}]" .) -}}
{{- end -}}
{{- range $key, $instead := $gone -}}
{{- if hasKey $broker $key -}}
{{- fail (printf "%s.broker.%s: there is no such key any more; write %s instead." $.at $key $instead) -}}
{{- end -}}
{{- end -}}
{{- with $broker.podSpec -}}
{{- if eq ($broker.workload | default "Pod") "Job" -}}
{{- if .restartPolicy -}}
{{- fail (printf "%s.broker.podSpec.restartPolicy: set broker.job.restartPolicy instead." $.at) -}}
{{- end -}}
{{- else if dig "nodeAffinity" "requiredDuringSchedulingIgnoredDuringExecution" "" (.affinity | default dict) -}}
{{- fail (printf "%s.broker.podSpec.affinity: Akri adds the device's node as one more of the terms of requiredDuringSchedulingIgnoredDuringExecution, and Kubernetes asks for only one of them, so the broker could run on another node; use podSpec.nodeSelector." $.at) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "akri-http.rules.grpcClient" -}}
{{- if .Values.grpcClient.enabled -}}
{{- $name := include "akri-http.grpcConfiguration" . -}}
{{- $names := list -}}
{{- if not $name -}}
{{- fail "grpcClient: no Configuration has a broker of kind grpc; add one, or disable the client." -}}
{{- end -}}
{{- range .Values.configurations -}}
{{- $names = append $names .name -}}
{{- if eq .name $name -}}
{{- if ne ((.broker | default dict).kind | default "standalone") "grpc" -}}
{{- fail (printf "grpcClient.configuration: the Configuration %q has no broker of kind grpc; choose one that has." $name) -}}
{{- end -}}
{{- if not (include "akri-http.configurationAddress" .) -}}
{{- fail (printf "grpcClient: the configurationService of %q is off, but the client connects to it; enable it." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not (has $name $names) -}}
{{- fail (printf "grpcClient.configuration: there is no Configuration %q; the configurations are: %s." $name (join ", " $names | default "none")) -}}
{{- end -}}
{{- range .Values.grpcClient.env -}}
{{- if eq .name "GRPC_ENDPOINT" -}}
{{- fail "grpcClient.env: the chart sets GRPC_ENDPOINT itself; to choose another broker, set grpcClient.configuration, or --grpc_endpoint=HOST:PORT in grpcClient.args." -}}
{{- end -}}
{{- end -}}
{{- range .Values.grpcClient.args -}}
{{- if has . (list "--once" "--list") -}}
{{- fail (printf "grpcClient.args: with %s the client ends, and the Deployment would restart it again and again; use kubectl exec for it." .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Only with a cluster. Its list of APIs contains kinds (`v1/Pod`); the list that Helm uses offline does not.
*/}}
{{- define "akri-http.rules.cluster" -}}
{{- if and .Values.configurations (.Capabilities.APIVersions.Has "v1/Pod") -}}
{{- if not (.Capabilities.APIVersions.Has "akri.sh/v0") -}}
{{- fail "this cluster does not know Configurations (akri.sh/v0), because Akri's CRDs are missing. Install Akri before this chart: `helm repo add akri-helm-charts https://project-akri.github.io/akri/`, then `helm install akri akri-helm-charts/akri-dev --version 0.13.26`." -}}
{{- end -}}
{{- range $index, $configuration := .Values.configurations -}}
{{- $there := lookup "akri.sh/v0" "Configuration" $.Release.Namespace $configuration.name -}}
{{- if $there -}}
{{- $wanted := include "akri-http.discoveryHandler" (dict "root" $ "configuration" $configuration) | fromYaml -}}
{{- if ne (toJson $there.spec.discoveryHandler) (toJson $wanted) -}}
{{- fail (printf "configurations[%d]: the Configuration %q in the cluster has different discovery details, discovery properties or a different handler name. Akri reads these only once. Rename the Configuration, or delete it first: kubectl --namespace %s delete akric %s" $index $configuration.name $.Release.Namespace $configuration.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
