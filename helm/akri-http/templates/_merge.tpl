{{/*
`base`, a YAML text, with `patch` merged over it, as a strategic merge patch of Kubernetes does it. Without a patch it stays as
it is, with its order and its comments. Takes `base` and `patch`.
*/}}
{{- define "akri-http.merged" -}}
{{- if .patch -}}
{{- $merged := fromYaml .base -}}
{{- include "akri-http.merge" (dict "into" $merged "patch" .patch) -}}
{{- toYaml $merged -}}
{{- else -}}
{{- .base -}}
{{- end -}}
{{- end -}}

{{/* Merges `patch` into the map `into`. Renders nothing. A null removes a key; maps are merged; so are the lists below. */}}
{{- define "akri-http.merge" -}}
{{- $identities := dict "volumeMounts" "mountPath" "ports" "containerPort" -}}
{{- range list "containers" "initContainers" "env" "volumes" "imagePullSecrets" -}}
{{- $_ := set $identities . "name" -}}
{{- end -}}
{{- range $key, $value := .patch -}}
{{- $old := get $.into $key -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $.into $key -}}
{{- else if kindIs "map" $value -}}
{{- $new := kindIs "map" $old | ternary $old dict -}}
{{- include "akri-http.merge" (dict "into" $new "patch" $value) -}}
{{- $_ := set $.into $key $new -}}
{{- else if and (kindIs "slice" $value) (hasKey $identities $key) -}}
{{- $deep := has $key (list "containers" "initContainers") -}}
{{- $list := dict "items" (kindIs "slice" $old | ternary $old list) "patch" $value "identity" (get $identities $key) "deep" $deep -}}
{{- include "akri-http.mergeList" $list -}}
{{- $_ := set $.into $key $list.items -}}
{{- else -}}
{{- $_ := set $.into $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Merges the list `patch` into the list `items` of the given map: an entry with the same `identity` is merged if `deep`, and
else replaced; any other entry is appended. Renders nothing.
*/}}
{{- define "akri-http.mergeList" -}}
{{- range $entry := .patch -}}
{{- $items := list -}}
{{- $found := false -}}
{{- range $item := $.items -}}
{{- if eq (get $item $.identity | toString) (get $entry $.identity | toString) -}}
{{- $found = true -}}
{{- if $.deep -}}
{{- include "akri-http.merge" (dict "into" $item "patch" $entry) -}}
{{- else -}}
{{- $item = $entry -}}
{{- end -}}
{{- end -}}
{{- $items = append $items $item -}}
{{- end -}}
{{- if not $found -}}
{{- $new := dict -}}
{{- include "akri-http.merge" (dict "into" $new "patch" $entry) -}}
{{- $items = append $items $new -}}
{{- end -}}
{{- $_ := set $ "items" $items -}}
{{- end -}}
{{- end -}}
