{{/* Names, labels and other parts that several objects share. */}}

{{- define "akri-http.handlerName" -}}
{{- printf "%s-discovery-handler" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "akri-http.grpcClientName" -}}
{{- printf "%s-grpc-client" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels of an object. Takes `root` and `component`. */}}
{{- define "akri-http.labels" -}}
{{ include "akri-http.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: akri-http
app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/*
The labels that selectors match. Pods get no others: with a version label, each new chart would restart every handler, and
Akri deletes a node's Instances while its handler restarts. Takes `root` and `component`.
*/}}
{{- define "akri-http.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* image and imagePullPolicy of a container. Takes `root` and `image`. */}}
{{- define "akri-http.image" -}}
image: {{ printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ .image.pullPolicy | default "IfNotPresent" }}
{{- end -}}

{{/* What the Pod Security level `restricted` requires of a Pod. */}}
{{- define "akri-http.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* What it requires of a container, plus a read-only root file system. */}}
{{- define "akri-http.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/*
Probes on the admin port. Takes the port's name. An update waits until a handler is ready, so that is asked often. But an
update stops a handler that is no longer ready at once, and a kill costs Instances, so both take long.
*/}}
{{- define "akri-http.adminProbes" -}}
startupProbe:
  httpGet:
    path: /livez
    port: {{ . }}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 60
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ . }}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 30
livenessProbe:
  httpGet:
    path: /livez
    port: {{ . }}
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{/* A Configuration's discoveryDetails as text. Takes the Configuration. */}}
{{- define "akri-http.discoveryDetails" -}}
{{- kindIs "map" .discoveryDetails | ternary (toYaml .discoveryDetails) .discoveryDetails -}}
{{- end -}}

{{/* A Configuration's spec.discoveryHandler. Takes `root` and `configuration`. */}}
{{- define "akri-http.discoveryHandler" -}}
name: {{ .root.Values.handler.name | quote }}
discoveryDetails: {{ include "akri-http.discoveryDetails" .configuration | quote }}
{{- with .configuration.discoveryProperties }}
discoveryProperties:
  {{- range . }}
  - name: {{ .name | quote }}
    {{- if hasKey . "value" }}
    value: {{ .value | quote }}
    {{- else }}
    valueFrom:
      {{- range $kind, $ref := .valueFrom }}
      {{ $kind }}:
        name: {{ $ref.name | quote }}
        key: {{ $ref.key | quote }}
        {{- /* Without a namespace, the Agent would look in `default`. */}}
        namespace: {{ $ref.namespace | default $.root.Release.Namespace | quote }}
        optional: {{ $ref.optional | default false }}
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end -}}
