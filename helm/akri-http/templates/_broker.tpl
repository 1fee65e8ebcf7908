{{/*
The broker's Pod spec, which Akri's Controller completes for each Instance. Takes `root`, `configuration`.
Akri reads it with types of its own, so that every quantity has to be a string.
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
automountServiceAccountToken: {{ $broker.automountServiceAccountToken | default false }}
{{- with $broker.serviceAccountName }}
serviceAccountName: {{ . | quote }}
{{- end }}
enableServiceLinks: false
{{- if eq ($broker.workload | default "Pod") "Job" }}
restartPolicy: {{ ($broker.job | default dict).restartPolicy | default "OnFailure" }}
{{- end }}
{{- if hasKey $broker "terminationGracePeriodSeconds" }}
terminationGracePeriodSeconds: {{ int64 $broker.terminationGracePeriodSeconds }}
{{- else }}
terminationGracePeriodSeconds: 10
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- if $broker.podSecurityContext }}
  {{- toYaml $broker.podSecurityContext | nindent 2 }}
  {{- else }}
  {{- include "akri-http.restrictedPod" . | nindent 2 }}
  {{- end }}
containers:
  - name: broker
    {{- include "akri-http.image" (dict "root" .root "image" $image) | nindent 4 }}
    {{- with $broker.command }}
    command: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $broker.args }}
    args: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $broker.env }}
    env: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if $broker.ports }}
    ports: {{- toYaml $broker.ports | nindent 6 }}
    {{- else if $grpc }}
    ports:
      - name: grpc
        containerPort: {{ include "akri-http.grpcPort" . }}
        protocol: TCP
    {{- end }}
    {{- if and $grpc (not (eq (toString $broker.probes) "false")) }}
    {{- include "akri-http.grpcProbes" . | nindent 4 }}
    {{- end }}
    resources:
      {{- /* The Controller puts the Instance's resource in the place of PLACEHOLDER. */}}
      {{- range $part := list "requests" "limits" }}
      {{ $part }}:
        "{{ "{{PLACEHOLDER}}" }}": "1"
        {{- range $name, $quantity := index $resources $part }}
        {{ $name | quote }}: {{ $quantity | quote }}
        {{- end }}
      {{- end }}
    securityContext:
      {{- if $broker.securityContext }}
      {{- toYaml $broker.securityContext | nindent 6 }}
      {{- else }}
      {{- include "akri-http.restrictedContainer" . | nindent 6 }}
      {{- end }}
    {{- with $broker.volumeMounts }}
    volumeMounts: {{- toYaml . | nindent 6 }}
    {{- end }}
{{- with $broker.volumes }}
volumes: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Where a broker of kind `grpc` serves. */}}
{{- define "akri-http.grpcPort" -}}
50051
{{- end -}}

{{/*
No liveness probe: a broker that refuses calls because it has as many as it can serve would fail it too, and would be
killed for that. One that ends is restarted anyway.
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
{{- end -}}

{{/*
The spec of a Service that Akri makes for brokers, to which it adds the selector; nothing where there is to be none. Takes
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

{{/* NAME-svc:PORT of a Configuration's own Service, as Akri names it; nothing where it has none. Takes a Configuration. */}}
{{- define "akri-http.configurationAddress" -}}
{{- with include "akri-http.brokerService" (dict "broker" .broker "service" "configurationService") | fromYaml -}}
{{- printf "%s-svc:%v" $.name (first .ports).port -}}
{{- end -}}
{{- end -}}

{{/* The name of the Configuration whose brokers the gRPC client reads; nothing where there is none. Takes the root. */}}
{{- define "akri-http.grpcConfiguration" -}}
{{- $name := .Values.grpcClient.configuration -}}
{{- range .Values.configurations -}}
{{- if and (not $name) (eq ((.broker | default dict).kind | default "standalone") "grpc") -}}
{{- $name = .name -}}
{{- end -}}
{{- end -}}
{{- $name -}}
{{- end -}}
