{{- define "akri-http.readingsName" -}}
{{- printf "%s-readings" (include "akri-http.fullname" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The names of the Configurations with gRPC brokers, as a list in YAML. Takes the root. */}}
{{- define "akri-http.grpcConfigurations" -}}
{{- range .Values.configurations }}
{{- if eq ((.broker | default dict).kind | default "standalone") "grpc" }}
- {{ .name | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The Pod spec of the readings' page, before `podSpec` is merged over it. Takes the root. */}}
{{- define "akri-http.readingsPodSpec" -}}
{{- $brokers := list -}}
{{- range include "akri-http.grpcConfigurations" . | fromYamlArray -}}
{{- $brokers = append $brokers (printf "%s-brokers:%s" . (include "akri-http.grpcPort" $)) -}}
{{- end -}}
{{- with .Values.readings -}}
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
  - name: readings
    {{- include "akri-http.image" (dict "root" $ "image" $.Values.images.readings) | nindent 4 }}
    {{- with .args }}
    args: {{- toYaml . | nindent 6 }}
    {{- end }}
    env:
      - name: BROKERS
        value: {{ join "," $brokers | quote }}
      - name: LISTEN
        value: ":8090"
      {{- with .env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      - name: http
        containerPort: 8090
    {{- $times := dict "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" 6 }}
    {{- include "akri-http.adminProbes" (dict "port" "http" "probes" (dict "readinessProbe" $times "livenessProbe" $times)) | nindent 4 }}
    resources:
      {{- toYaml .resources | nindent 6 }}
    securityContext:
      {{- include "akri-http.restrictedContainer" . | nindent 6 }}
{{- end -}}
{{- end -}}

{{- define "akri-http.rules.readings" -}}
{{- if .Values.readings.enabled -}}
{{- if not (include "akri-http.grpcConfigurations" . | fromYamlArray) -}}
{{- fail "readings: no Configuration has a broker of kind grpc, and the page shows the readings of those; add one, or disable the page." -}}
{{- end -}}
{{- range .Values.readings.env -}}
{{- if has .name (list "BROKERS" "LISTEN") -}}
{{- fail (printf "readings.env: the chart sets %s itself; to add brokers, set the argument --brokers in readings.args." .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
