{{/* Names, labels and other parts that several objects share. */}}

{{/* What the names of objects begin with. */}}
{{- define "akri-http.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name -}}
{{- end -}}

{{- define "akri-http.handlerName" -}}
{{- printf "%s-discovery-handler" (include "akri-http.fullname" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "akri-http.grpcClientName" -}}
{{- printf "%s-grpc-client" (include "akri-http.fullname" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The labels and annotations of an object. Takes `root`, `component`, and optionally `labels` and `annotations`. */}}
{{- define "akri-http.metadata" -}}
labels:
  {{- include "akri-http.labels" . | nindent 2 }}
  {{- with merge dict (.labels | default dict) .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge dict (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The labels and annotations of a workload's Pods. Takes `root`, `component`, and optionally `podLabels` and `podAnnotations`. */}}
{{- define "akri-http.podMetadata" -}}
labels:
  {{- include "akri-http.selector" . | nindent 2 }}
  {{- with merge dict (.podLabels | default dict) .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge dict (.podAnnotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The labels that the chart itself gives to an object. Takes `root` and `component`. */}}
{{- define "akri-http.labels" -}}
{{ include "akri-http.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: akri-http
app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/*
The labels that selectors match. Pods get no others from the chart: with a version label, each new chart would restart every handler, and
Akri deletes a node's Instances while its handler restarts. Takes `root` and `component`.
*/}}
{{- define "akri-http.selector" -}}
app.kubernetes.io/name: {{ .root.Values.nameOverride | default .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* image and imagePullPolicy of a container. Takes `root`, `image`, and `whole`: whether its repository is never in `images.registry`. */}}
{{- define "akri-http.image" -}}
{{- $images := .root.Values.images -}}
{{- $repository := .image.repository -}}
{{- if not (or .whole (contains "/" $repository)) -}}
{{- if not $images.registry -}}
{{- fail "images.registry: it is not set, and no public registry has this project's images. Build and push them (docs/install.md of the project, step 1), and set it to your registry, for example registry.example.com/me." -}}
{{- end -}}
{{- $repository = printf "%s/%s" $images.registry $repository -}}
{{- end -}}
image: {{ printf "%s:%s" $repository (.image.tag | default $images.tag | default .root.Chart.AppVersion) | quote }}
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

{{/* Probes on the admin port. Takes `port`, its name, and `probes`: when each probe asks and how often it may fail. */}}
{{- define "akri-http.adminProbes" -}}
{{- range $probe := list "startupProbe" "readinessProbe" "livenessProbe" }}
{{- with $times := get $.probes $probe }}
{{ $probe }}:
  httpGet:
    path: {{ eq $probe "readinessProbe" | ternary "/readyz" "/livez" }}
    port: {{ $.port }}
  {{- range list "periodSeconds" "timeoutSeconds" "failureThreshold" }}
  {{ . }}: {{ get $times . }}
  {{- end }}
{{- end }}
{{- end }}
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
