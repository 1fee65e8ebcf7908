{{/*
The first property whose Secret or ConfigMap is in another namespace, where a Pod of this release cannot mount it. Empty if
there is none. Takes `root` and `configuration`.
*/}}
{{- define "akri-http.outOfReach" -}}
{{- $found := "" -}}
{{- range $property := .configuration.discoveryProperties -}}
{{- range $ref := .valueFrom -}}
{{- if and (not $found) (ne ($ref.namespace | default $.root.Release.Namespace) $.root.Release.Namespace) -}}
{{- $found = $property.name -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $found -}}
{{- end -}}

{{/* Those Secrets and ConfigMaps as sources of a volume, with a file for each property. Takes a Configuration. */}}
{{- define "akri-http.propertySources" -}}
{{- range $property := .discoveryProperties -}}
{{- range $kind, $ref := .valueFrom }}
- {{ eq $kind "secretKeyRef" | ternary "secret" "configMap" }}:
    name: {{ $ref.name | quote }}
    items:
      - key: {{ $ref.key | quote }}
        path: {{ $property.name | quote }}
    optional: {{ $ref.optional | default false }}
{{- end }}
{{- end }}
{{- end -}}

{{/* An argument of a container as it is: Kubernetes would expand $(NAME). */}}
{{- define "akri-http.argument" -}}
{{- . | replace "$" "$$" | quote -}}
{{- end -}}

{{/* Annotations of what the tests' Pods may do: it is there only while they run. */}}
{{- define "akri-http.testRight" -}}
helm.sh/hook: test
helm.sh/hook-weight: "-1"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
