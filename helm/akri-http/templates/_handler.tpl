{{/* One container of the handler. Takes the root. */}}
{{- define "akri-http.handlerContainer" -}}
{{- with .Values.handler -}}
{{- include "akri-http.image" (dict "root" $ "image" $.Values.images.discoveryHandler) | trim }}
{{- with .args }}
args:
  {{- toYaml . | nindent 2 }}
{{- end }}
env:
  - name: DISCOVERY_HANDLERS_DIRECTORY
    value: /var/lib/akri
  - name: DISCOVERY_HANDLER_NAME
    value: {{ .name | quote }}
  - name: SHARED
    value: {{ .shared | quote }}
  {{- if .network.enabled }}
  - name: POD_IP
    valueFrom:
      fieldRef:
        fieldPath: status.podIP
  {{- end }}
  - name: POLL_INTERVAL
    value: {{ .pollInterval | quote }}
  - name: POLL_TIMEOUT
    value: {{ .pollTimeout | quote }}
  - name: GRACE
    value: {{ .grace | quote }}
  - name: MAX_BODY_BYTES
    value: {{ int64 .maxBodyBytes | quote }}
  - name: RUST_LOG
    value: {{ .logLevel | quote }}
  {{- with .env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- if .network.enabled }}
ports:
  - name: discovery
    containerPort: 10000
    protocol: TCP
readinessProbe:
  tcpSocket:
    port: discovery
{{- end }}
resources:
  {{- toYaml .resources | nindent 2 }}
securityContext:
  # Only root can connect to the Agent's socket. Uid 0 needs no capability for that.
  runAsUser: 0
  runAsGroup: 0
  {{- include "akri-http.restrictedContainer" . | nindent 2 }}
volumeMounts:
  # The Agent mounts the directory at the same path. The handler registers its socket by this path.
  - name: discovery-handlers
    mountPath: /var/lib/akri
    readOnly: {{ .network.enabled }}
  {{- with .volumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
{{- end -}}
