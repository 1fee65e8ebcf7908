{{/*
What values.schema.json cannot say, or cannot say so that a person understands it: each rule fails with a sentence that
names the value, what was given and what is asked for.
*/}}
{{- define "akri-http.rules" -}}
{{- include "akri-http.rules.handler" . -}}
{{- include "akri-http.rules.pullSecrets" . -}}
{{- $seen := dict -}}
{{- range $index, $configuration := .Values.configurations -}}
{{- $at := printf "configurations[%d]" $index -}}
{{- $with := dict "root" $ "configuration" $configuration "at" $at -}}
{{- include "akri-http.rules.name" $with -}}
{{- if hasKey $seen $configuration.name -}}
{{- fail (printf "%s.name: %q is there twice; give each Configuration a name of its own." $at $configuration.name) -}}
{{- end -}}
{{- $_ := set $seen $configuration.name true -}}
{{- include "akri-http.rules.details" $with -}}
{{- include "akri-http.rules.properties" $with -}}
{{- include "akri-http.rules.broker" $with -}}
{{- end -}}
{{- include "akri-http.rules.grpcClient" . -}}
{{- include "akri-http.rules.cluster" . -}}
{{- end -}}

{{/* A time from 100ms to `most` milliseconds. Takes `at`, `time`, `most`, `limit` (the same for people). */}}
{{- define "akri-http.rules.time" -}}
{{- $unit := regexFind "[a-z]+$" .time -}}
{{- $factor := get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) $unit | default 0 -}}
{{- $number := regexFind "^[0-9]{1,9}" .time -}}
{{- $amount := mul (int64 $number) (int64 $factor) -}}
{{- if or (ne .time (printf "%s%s" $number $unit)) (lt $amount 100) (gt $amount (int64 .most)) -}}
{{- fail (printf "%s: %q is not a time from 100ms to %s; write a whole number and a unit (ms, s, m or h), for example 10s." .at .time .limit) -}}
{{- end -}}
{{- end -}}

{{- define "akri-http.rules.handler" -}}
{{- with .Values.handler -}}
{{- if or (not (regexMatch "^[a-z0-9][a-z0-9._-]{0,62}$" .name)) (eq .name "agent-registration") -}}
{{- fail (printf "handler.name: %q may have lower-case letters, digits, '-', '.' and '_' alone, at most 63, because it names a socket, and the Agent's own is agent-registration." .name) -}}
{{- end -}}
{{- if not (regexMatch "^/." .hostPath) -}}
{{- fail (printf "handler.hostPath: %q has to be an absolute path, for example /var/lib/akri." .hostPath) -}}
{{- end -}}
{{- include "akri-http.rules.time" (dict "at" "handler.pollInterval" "time" .pollInterval "most" 86400000 "limit" "24h") -}}
{{- include "akri-http.rules.time" (dict "at" "handler.pollTimeout" "time" .pollTimeout "most" 600000 "limit" "10m") -}}
{{- include "akri-http.rules.time" (dict "at" "handler.connectTimeout" "time" .connectTimeout "most" 600000 "limit" "10m") -}}
{{- if or (lt (int64 .maxBodyBytes) 1024) (gt (int64 .maxBodyBytes) 1073741824) -}}
{{- fail (printf "handler.maxBodyBytes: %d is not from 1024 to 1073741824." (int64 .maxBodyBytes)) -}}
{{- end -}}
{{- if or (lt (int64 .maxMessageBytes) 1024) (gt (int64 .maxMessageBytes) 4194304) -}}
{{- fail (printf "handler.maxMessageBytes: %d is not from 1024 to 4194304, which is the most that the Agent accepts." (int64 .maxMessageBytes)) -}}
{{- end -}}
{{- $rolling := .updateStrategy.rollingUpdate | default dict -}}
{{- $none := list "0" "0%" -}}
{{- if not (has (toString ($rolling.maxSurge | default 0)) $none) -}}
{{- if not .network.enabled -}}
{{- fail (printf "handler.updateStrategy: maxSurge %v needs handler.network.enabled=true, or two Pods of a node would fight over one socket." $rolling.maxSurge) -}}
{{- end -}}
{{- if not (has (toString ($rolling.maxUnavailable | default 0)) $none) -}}
{{- fail (printf "handler.updateStrategy: with maxSurge %v, Kubernetes wants maxUnavailable 0, and it is %v." $rolling.maxSurge $rolling.maxUnavailable) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "akri-http.rules.pullSecrets" -}}
{{- range .Values.imagePullSecrets -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$" .name) -}}
{{- fail (printf "imagePullSecrets: %q cannot be the name of a Secret; Kubernetes wants lower-case letters, digits, '-' and '.', for example %q." .name (lower .name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Akri's longest names are NAME-HASH-svc, where HASH is 6 characters, and NAME-HASH-GENERATION-job: 63 at most. */}}
{{- define "akri-http.rules.name" -}}
{{- $broker := .configuration.broker | default dict -}}
{{- $job := eq ($broker.workload | default "Pod") "Job" -}}
{{- $most := $job | ternary 49 52 -}}
{{- $name := .configuration.name -}}
{{- if gt (len $name) $most -}}
{{- fail (printf "%s.name: %q has %d characters; at most %d fit%s, because Akri makes longer names of it." .at $name (len $name) $most ($job | ternary " with a Job" "")) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "%s.name: %q may have lower-case letters, digits and '-' alone, and begins and ends with a letter or a digit." .at $name) -}}
{{- end -}}
{{- $instance := include "akri-http.brokerService" (dict "broker" $broker "service" "instanceService") -}}
{{- $all := include "akri-http.brokerService" (dict "broker" $broker "service" "configurationService") -}}
{{- if and (or $instance $all) (regexMatch "^[0-9]" $name) -}}
{{- fail (printf "%s.name: %q begins with a digit, which the name of a Service may not; take another name or no Service." .at $name) -}}
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
{{- end -}}
{{- /* The address may hold a password, so the message does not repeat it. */ -}}
{{- if not (regexMatch "^https?://[^\\s/][^\\s]*$" $url) -}}
{{- fail (printf "%s.discoveryDetails: the address of the discovery service has to begin with http:// or https:// and may have no spaces." .at) -}}
{{- end -}}
{{- end -}}

{{- define "akri-http.rules.properties" -}}
{{- range $index, $property := .configuration.discoveryProperties -}}
{{- $at := printf "%s.discoveryProperties[%d]" $.at $index -}}
{{- if not (regexMatch "^[_A-Za-z][_A-Za-z0-9]*$" .name) -}}
{{- fail (printf "%s.name: %q may have letters, digits and '_' alone, and does not begin with a digit." $at .name) -}}
{{- end -}}
{{- if eq (hasKey . "value") (hasKey . "valueFrom") -}}
{{- fail (printf "%s: %q needs either a value or a valueFrom." $at .name) -}}
{{- end -}}
{{- if and (hasKey . "valueFrom") (ne (len .valueFrom) 1) -}}
{{- fail (printf "%s.valueFrom: %q needs either a secretKeyRef or a configMapKeyRef." $at .name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .configuration.brokerProperties -}}
{{- if not (regexMatch "^[_A-Za-z][_A-Za-z0-9]*$" $name) -}}
{{- fail (printf "%s.brokerProperties: %q cannot name an environment variable; use letters, digits and '_', and no digit first." $.at $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "akri-http.rules.broker" -}}
{{- $broker := .configuration.broker | default dict -}}
{{- $grpc := eq ($broker.kind | default "standalone") "grpc" -}}
{{- range $key := list "instanceService" "configurationService" -}}
{{- $service := get $broker $key -}}
{{- if and $service (not $grpc) (not $service.ports) (not (eq (toString $service.enabled) "false")) -}}
{{- fail (printf "%s.broker.%s: needs ports, because only the broker of kind grpc has a port of its own." $.at $key) -}}
{{- end -}}
{{- end -}}
{{- if $grpc -}}
{{- range $broker.env -}}
{{- if and (eq .name "GRPC_ENDPOINT") (hasKey . "value") (not (hasSuffix (printf ":%s" (include "akri-http.grpcPort" $)) .value)) -}}
{{- fail (printf "%s.broker.env: GRPC_ENDPOINT %q has to end with :%s, where the probes and the Services look; a Service may have another port, with ports." $.at .value (include "akri-http.grpcPort" $)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq ($broker.workload | default "Pod") "Job" -}}
{{- if $grpc -}}
{{- fail (printf "%s.broker: kind grpc serves until its Instance goes, so it cannot be a Job; leave kind out for a program of your own that ends." .at) -}}
{{- end -}}
{{- if or $broker.instanceService $broker.configurationService -}}
{{- fail (printf "%s.broker: Akri gives Services to Pods alone; leave instanceService and configurationService out of a Job." .at) -}}
{{- end -}}
{{- if not $broker.image -}}
{{- fail (printf "%s.broker: the %s broker never ends, so it cannot be a Job; give broker.image, with a program that ends." .at ($broker.kind | default "standalone")) -}}
{{- end -}}
{{- else if $broker.job -}}
{{- fail (printf "%s.broker.job: is for workload Job, and this is a Pod." .at) -}}
{{- end -}}
{{- end -}}

{{- define "akri-http.rules.grpcClient" -}}
{{- if .Values.grpcClient.enabled -}}
{{- $name := include "akri-http.grpcConfiguration" . -}}
{{- $names := list -}}
{{- if not $name -}}
{{- fail "grpcClient: no Configuration has a broker of kind grpc, which the client could read through." -}}
{{- end -}}
{{- range .Values.configurations -}}
{{- $names = append $names .name -}}
{{- if eq .name $name -}}
{{- if ne ((.broker | default dict).kind | default "standalone") "grpc" -}}
{{- fail (printf "grpcClient.configuration: %q has no broker of kind grpc." $name) -}}
{{- end -}}
{{- if not (include "akri-http.configurationAddress" .) -}}
{{- fail (printf "grpcClient: the client reaches the brokers of %q through their configurationService, which is switched off." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not (has $name $names) -}}
{{- fail (printf "grpcClient.configuration: there is no %q in configurations, which has %s." $name (join ", " $names | default "none")) -}}
{{- end -}}
{{- range .Values.grpcClient.env -}}
{{- if eq .name "GRPC_ENDPOINT" -}}
{{- fail "grpcClient.env: GRPC_ENDPOINT comes from grpcClient.configuration; for another broker, give --grpc_endpoint=HOST:PORT in grpcClient.args." -}}
{{- end -}}
{{- end -}}
{{- range .Values.grpcClient.args -}}
{{- if has . (list "--once" "--list") -}}
{{- fail (printf "grpcClient.args: %s ends the client, and the Deployment would start it again and again; run it with kubectl exec instead." .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Against a cluster alone. A list of its APIs has the kinds too (`v1/Pod`), which Helm's own list for rendering offline has not.
*/}}
{{- define "akri-http.rules.cluster" -}}
{{- if and .Values.configurations (.Capabilities.APIVersions.Has "v1/Pod") -}}
{{- if not (.Capabilities.APIVersions.Has "akri.sh/v0") -}}
{{- fail "this cluster has no Configurations (akri.sh/v0): Akri's CRDs come with Akri's own chart. Install Akri first, with `helm repo add akri-helm-charts https://project-akri.github.io/akri/` and `helm install akri akri-helm-charts/akri`, then this chart." -}}
{{- end -}}
{{- range $index, $configuration := .Values.configurations -}}
{{- $there := lookup "akri.sh/v0" "Configuration" $.Release.Namespace $configuration.name -}}
{{- if $there -}}
{{- $wanted := include "akri-http.discoveryHandler" (dict "root" $ "configuration" $configuration) | fromYaml -}}
{{- if ne (toJson $there.spec.discoveryHandler) (toJson $wanted) -}}
{{- fail (printf "configurations[%d]: the cluster's Configuration %q has other discovery details, properties or another handler name, which Akri reads once. Give the Configuration a new name, or delete it first: kubectl --namespace %s delete akric %s" $index $configuration.name $.Release.Namespace $configuration.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
