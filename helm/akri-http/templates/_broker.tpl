{{/*
The broker's Pod spec, before `podSpec` is merged over it. Akri's Controller completes it for each Instance. Takes `root` and `configuration`.
Akri parses it with its own types, in which every quantity is a string.
*/}}
{{- define "akri-http.brokerPodSpec" -}}
{{- $broker := .configuration.broker -}}
{{- $ours := get .root.Values.images (printf "%sBroker" ($broker.kind | default "standalone")) -}}
{{- $image := $broker.image | default $ours -}}
{{- $grpc := eq ($broker.kind | default "standalone") "grpc" -}}
{{- $usual := dict "requests" (dict "memory" "11Mi" "cpu" "10m") "limits" (dict "memory" "24Mi" "cpu" "24m") -}}
{{- if $grpc -}}
{{- $usual = dict "requests" (dict "memory" "16Mi" "cpu" "10m") "limits" (dict "memory" "128Mi" "cpu" "200m") -}}
{{- end -}}
{{- $resources := $broker.resources | default $usual -}}
{{- $admin := include "akri-http.brokerAdminPort" $broker | int -}}
{{- $credentials := $broker.credentials | default dict -}}
{{- $ports := $broker.ports | default list -}}
{{- if and $grpc (not $ports) -}}
{{- $ports = list (dict "name" "grpc" "containerPort" (include "akri-http.grpcPort" . | int) "protocol" "TCP") -}}
{{- end -}}
{{- if $admin -}}
{{- $ports = append $ports (dict "name" "admin" "containerPort" $admin "protocol" "TCP") -}}
{{- end -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- if eq ($broker.workload | default "Pod") "Job" }}
restartPolicy: {{ ($broker.job | default dict).restartPolicy | default "OnFailure" }}
{{- end }}
terminationGracePeriodSeconds: 10
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "akri-http.restrictedPod" . | nindent 2 }}
containers:
  - name: broker
    {{- include "akri-http.image" (dict "root" .root "image" $image "whole" $broker.image) | nindent 4 }}
    {{- with $broker.command }}
    command: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $broker.args }}
    args: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if or $admin $credentials.keys $broker.env }}
    env:
      {{- if $admin }}
      - name: ADMIN_ADDRESS
        value: ":{{ $admin }}"
      {{- end }}
      {{- if $credentials.keys }}
      {{- include "akri-http.credentialsEnv" $credentials | trim | nindent 6 }}
      {{- end }}
      {{- with $broker.env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- end }}
    {{- with $ports }}
    ports: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if eq (toString $broker.probes) "false" }}
    {{- else if $grpc }}
    {{- include "akri-http.grpcProbes" . | nindent 4 }}
    {{- else if $admin }}
    {{- include "akri-http.adminProbes" (dict "port" "admin" "probes" (include "akri-http.brokerProbes" . | fromYaml)) | trim | nindent 4 }}
    {{- end }}
    resources:
      {{- /* The Controller replaces PLACEHOLDER with the Instance's resource name. */}}
      {{- range $part := list "requests" "limits" }}
      {{ $part }}:
        "{{ "{{PLACEHOLDER}}" }}": "1"
        {{- range $name, $quantity := index $resources $part }}
        {{ $name | quote }}: {{ $quantity | quote }}
        {{- end }}
      {{- end }}
    securityContext:
      {{- include "akri-http.restrictedContainer" . | nindent 6 }}
    {{- if $credentials.keys }}
    volumeMounts:
      {{- include "akri-http.credentialsMount" . | nindent 6 }}
    {{- end }}
{{- if $credentials.keys }}
volumes:
  {{- include "akri-http.credentialsVolume" $credentials | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A broker's admin port; 0 if it has none, which is the default of an image of one's own. Takes the broker. */}}
{{- define "akri-http.brokerAdminPort" -}}
{{- hasKey . "adminPort" | ternary (int .adminPort) (empty .image | ternary 8081 0) -}}
{{- end -}}

{{/* When the probes on a broker's admin port ask, and how often they may fail. */}}
{{- define "akri-http.brokerProbes" -}}
startupProbe: {periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 60}
readinessProbe: {periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 30}
livenessProbe: {periodSeconds: 20, timeoutSeconds: 5, failureThreshold: 6}
{{- end -}}

{{/* The port of a broker of kind `grpc`. */}}
{{- define "akri-http.grpcPort" -}}
50051
{{- end -}}

{{/*
Health checks do not count as calls, so a broker that refuses calls because it is busy still answers them.
*/}}
{{- define "akri-http.grpcProbes" -}}
startupProbe:
  grpc:
    port: {{ include "akri-http.grpcPort" . }}
    service: http.DeviceService
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 30
readinessProbe:
  grpc:
    port: {{ include "akri-http.grpcPort" . }}
    service: http.DeviceService
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
livenessProbe:
  grpc:
    port: {{ include "akri-http.grpcPort" . }}
    service: http.DeviceService
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{/*
The spec of a Service that Akri makes for brokers, without the selector, which Akri adds. Empty if the Service is off. Takes
`broker`, and `service`, the Service's key in it.
*/}}
{{- define "akri-http.brokerService" -}}
{{- $grpc := eq (.broker.kind | default "standalone") "grpc" -}}
{{- $port := include "akri-http.grpcPort" . | int -}}
{{- $service := get .broker .service | default dict -}}
{{- $ports := $service.ports | default ($grpc | ternary (list (dict "name" "grpc" "port" $port)) list) -}}
{{- if and $ports (not (eq (toString $service.enabled) "false")) -}}
type: {{ $service.type | default "ClusterIP" }}
ports:
  {{- range $ports }}
  - name: {{ .name | quote }}
    port: {{ .port }}
    targetPort: {{ .targetPort | default ($grpc | ternary $port .port) }}
    protocol: {{ .protocol | default "TCP" }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* NAME-svc:PORT of the Service that Akri makes for a Configuration. Empty if there is none. Takes a Configuration. */}}
{{- define "akri-http.configurationAddress" -}}
{{- with include "akri-http.brokerService" (dict "broker" .broker "service" "configurationService") | fromYaml -}}
{{- printf "%s-svc:%v" $.name (first .ports).port -}}
{{- end -}}
{{- end -}}

{{/* The name of the Configuration that the gRPC client reads. Empty if there is none. Takes the root. */}}
{{- define "akri-http.grpcConfiguration" -}}
{{- $name := .Values.grpcClient.configuration -}}
{{- range .Values.configurations -}}
{{- if and (not $name) (eq ((.broker | default dict).kind | default "standalone") "grpc") -}}
{{- $name = .name -}}
{{- end -}}
{{- end -}}
{{- $name -}}
{{- end -}}
