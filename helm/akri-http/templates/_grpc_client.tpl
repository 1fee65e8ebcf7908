{{/* The gRPC client's Pod spec, before `podSpec` is merged over it. Takes the root. */}}
{{- define "akri-http.grpcClientPodSpec" -}}
{{- $name := include "akri-http.grpcConfiguration" . -}}
{{- with .Values.grpcClient -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 10
{{- with $.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "akri-http.restrictedPod" . | nindent 2 }}
containers:
  - name: grpc-client
    {{- include "akri-http.image" (dict "root" $ "image" $.Values.images.grpcClient) | nindent 4 }}
    {{- with .args }}
    args: {{- toYaml . | nindent 6 }}
    {{- end }}
    env:
      {{- range $configuration := $.Values.configurations }}
      {{- if eq $configuration.name $name }}
      # Akri makes this Service when the first broker runs. The client retries until then.
      - name: GRPC_ENDPOINT
        value: {{ include "akri-http.configurationAddress" $configuration | quote }}
      {{- end }}
      {{- end }}
      {{- with .env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    resources:
      {{- toYaml .resources | nindent 6 }}
    securityContext:
      {{- include "akri-http.restrictedContainer" . | nindent 6 }}
{{- end -}}
{{- end -}}
