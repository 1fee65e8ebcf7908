{{/*
The broker's Pod spec, which Akri's Controller completes for each Instance. Takes `root`, `configuration`.
Akri reads it with types of its own, so that every quantity has to be a string.
*/}}
{{- define "akri-http.brokerPodSpec" -}}
{{- $broker := .configuration.broker -}}
{{- $ours := get .root.Values.images (printf "%sBroker" ($broker.kind | default "standalone")) -}}
{{- $image := $broker.image | default $ours -}}
{{- $resources := $broker.resources | default (dict "requests" (dict "memory" "11Mi" "cpu" "10m") "limits" (dict "memory" "24Mi" "cpu" "24m")) -}}
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
    {{- with $broker.ports }}
    ports: {{- toYaml . | nindent 6 }}
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

{{/* The spec of a Service that Akri makes for brokers; it adds the selector. */}}
{{- define "akri-http.brokerService" -}}
type: {{ .type | default "ClusterIP" }}
ports:
  {{- range .ports }}
  - name: {{ .name | quote }}
    port: {{ .port }}
    targetPort: {{ .targetPort | default .port }}
    protocol: {{ .protocol | default "TCP" }}
  {{- end }}
{{- end -}}
