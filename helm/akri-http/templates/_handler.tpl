{{/*
One container of the handler. Takes `root`, and `standby`: whether it is the second one. It shares the Pod's address with the
first, so its admin port is the next one.
*/}}
{{- define "akri-http.handlerContainer" -}}
{{- with .root.Values.handler -}}
{{- $admin := $.standby | ternary "admin-standby" "admin" -}}
{{- $port := $.standby | ternary (add1 .adminPort) .adminPort | int -}}
{{- include "akri-http.image" (dict "root" $.root "image" $.root.Values.images.discoveryHandler) | trim }}
{{- with .args }}
args:
  {{- toYaml . | nindent 2 }}
{{- end }}
env:
  {{- include "akri-http.handlerEnv" (dict "root" $.root "adminPort" $port) | nindent 2 }}
{{- if or .network.enabled .adminPort }}
ports:
  {{- if .network.enabled }}
  - name: discovery
    containerPort: 10000
    protocol: TCP
  {{- end }}
  {{- if .adminPort }}
  - name: {{ $admin }}
    containerPort: {{ $port }}
    protocol: TCP
  {{- end }}
{{- end }}
{{- if .adminPort }}
{{- include "akri-http.adminProbes" (dict "port" $admin "probes" .) }}
{{- end }}
resources:
  {{- toYaml .resources | nindent 2 }}
securityContext:
  {{- include "akri-http.merged" (dict "base" (include "akri-http.handlerSecurityContext" .) "patch" .securityContext) | nindent 2 }}
volumeMounts:
  # The Agent mounts the directory at the same path. The handler registers its socket by this path.
  - name: discovery-handlers
    mountPath: /var/lib/akri
    readOnly: {{ .network.enabled }}
  {{- if .state.enabled }}
  - name: state
    mountPath: /var/lib/akri-http
  {{- end }}
  {{- if .credentials.keys }}
  {{- include "akri-http.credentialsMount" . | nindent 2 }}
  {{- end }}
  {{- with .volumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/*
The handler's settings. `helm test` checks with the same. Takes `root` and `adminPort`.
*/}}
{{- define "akri-http.handlerEnv" -}}
{{- with .root.Values.handler -}}
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
{{- if .state.enabled }}
- name: STATE_DIRECTORY
  value: /var/lib/akri-http
- name: STATE_MAX_AGE
  value: {{ .state.maxAge | quote }}
{{- end }}
{{- if .adminPort }}
- name: ADMIN_ADDRESS
  value: ":{{ $.adminPort }}"
{{- end }}
- name: RUST_LOG
  value: {{ .logLevel | quote }}
{{- if .credentials.keys }}
{{- include "akri-http.credentialsEnv" .credentials }}
{{- end }}
{{- with .env }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "akri-http.handlerSecurityContext" -}}
# Only root can connect to the Agent's socket. Uid 0 needs no capability for that.
runAsUser: 0
runAsGroup: 0
{{ include "akri-http.restrictedContainer" . }}
{{- end -}}

{{/* The name of the handler's ServiceAccount. Empty: the namespace's default one. Takes the root. */}}
{{- define "akri-http.handlerServiceAccount" -}}
{{- with .Values.handler.serviceAccount -}}
{{- .name | default (.create | ternary (include "akri-http.handlerName" $) "") -}}
{{- end -}}
{{- end -}}

{{/* The handler's dnsPolicy. Empty: Kubernetes' default. Takes the root. */}}
{{- define "akri-http.handlerDnsPolicy" -}}
{{- with .Values.handler -}}
{{- .dnsPolicy | default (.hostNetwork | ternary "ClusterFirstWithHostNet" "") -}}
{{- end -}}
{{- end -}}
