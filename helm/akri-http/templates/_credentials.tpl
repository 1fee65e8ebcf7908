{{/*
Files of credentials from a Secret, for the handler or a broker. It is mounted as a whole, because Kubernetes does not renew a
subPath when the Secret changes. `items` has a Pod wait, with an event that names it, for a key that the Secret does not have.
*/}}

{{/* The variables that name the files. Takes the `credentials` of the values. */}}
{{- define "akri-http.credentialsEnv" -}}
{{- range $key := .keys }}
- name: {{ get (include "akri-http.credentialsVariables" . | fromYaml) $key }}
  value: /etc/akri-http/credentials/{{ $key }}
{{- end }}
{{- end -}}

{{- define "akri-http.credentialsVariables" -}}
token: BEARER_TOKEN_FILE
ca.crt: CA_FILE
tls.crt: CLIENT_CERT_FILE
tls.key: CLIENT_KEY_FILE
{{- end -}}

{{- define "akri-http.credentialsMount" -}}
- name: akri-http-credentials
  mountPath: /etc/akri-http/credentials
  readOnly: true
{{- end -}}

{{- define "akri-http.credentialsVolume" -}}
- name: akri-http-credentials
  secret:
    secretName: {{ .secretName | quote }}
    items:
      {{- range .keys }}
      - key: {{ . }}
        path: {{ . }}
      {{- end }}
{{- end -}}

{{/* Takes `at`, and `credentials` and `env` of the values. */}}
{{- define "akri-http.rules.credentials" -}}
{{- with .credentials -}}
{{- if and .secretName (not .keys) -}}
{{- fail (printf "%s.credentials.keys: it is empty; name the keys of the Secret %q that are to be used: token, ca.crt, tls.crt, tls.key." $.at .secretName) -}}
{{- end -}}
{{- if and .keys (not .secretName) -}}
{{- fail (printf "%s.credentials.secretName: it is empty; name the Secret that has the keys." $.at) -}}
{{- end -}}
{{- if ne (has "tls.crt" .keys) (has "tls.key" .keys) -}}
{{- fail (printf "%s.credentials.keys: a client certificate needs both tls.crt and tls.key." $.at) -}}
{{- end -}}
{{- $variables := include "akri-http.credentialsVariables" . | fromYaml -}}
{{- range $key := .keys -}}
{{- range $.env -}}
{{- if eq .name (get $variables $key) -}}
{{- fail (printf "%s.env: the chart sets %s itself, because credentials.keys has %s; remove one of them." $.at .name $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
