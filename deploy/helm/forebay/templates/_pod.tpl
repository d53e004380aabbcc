{{/* What pods of operator and gateway have in common. */}}

{{/* Our list with a person's merged in: (dict "ours" list "extra" list "key" "name"). Theirs replaces ours of the same
key, and of two of theirs the last counts: server-side apply refuses duplicates. */}}
{{- define "forebay.merged" -}}
{{- $key := .key -}}
{{- $extra := dict -}}
{{- range .extra }}{{- $_ := set $extra (get . $key) . }}{{- end -}}
{{- $done := dict -}}
{{- $all := list -}}
{{- range concat .ours .extra -}}
{{- $name := get . $key -}}
{{- if not (hasKey $done $name) -}}
{{- $_ := set $done $name true -}}
{{- $all = append $all (ternary (get $extra $name) . (hasKey $extra $name)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $all -}}
{{- end }}

{{/* Labels and annotations of a pod: (dict "root" $ "component" "gateway"). */}}
{{- define "forebay.podMetadata" -}}
{{- $values := get .root.Values .component -}}
labels:
  {{- merge (include "forebay.labels" . | fromYaml) $values.podLabels | toYaml | nindent 2 }}
{{- with $values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Who the pod is and where it may run: (dict "root" $ "component" "gateway"). */}}
{{- define "forebay.placement" -}}
{{- $values := get .root.Values .component -}}
serviceAccountName: {{ include "forebay.serviceAccountName" . }}
enableServiceLinks: false
securityContext:
  {{- toYaml $values.podSecurityContext | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- with $values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "forebay.selector" . | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}

{{/* Of the one container, all but ports and probes:
(dict "root" $ "component" "gateway" "command" list "env" yaml "mounts" yaml). `python` is the first on PATH. */}}
{{- define "forebay.container" -}}
{{- $values := get .root.Values .component -}}
name: {{ .component }}
image: {{ include "forebay.image" (dict "root" .root "image" .root.Values.image) | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: [python, -m, {{ .module }}]
{{- with concat .args $values.extraArgs }}
args:
  {{- toYaml . | nindent 2 }}
{{- end }}
env:
  {{- include "forebay.merged" (dict "ours" (fromYamlArray .env) "extra" $values.extraEnv "key" "name") | nindent 2 }}
{{- with $values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $values.securityContext | nindent 2 }}
{{- with $values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  {{- include "forebay.merged" (dict "ours" (fromYamlArray .mounts) "extra" $values.extraVolumeMounts "key" "mountPath") | nindent 2 }}
{{- end }}

{{/* (dict "root" $ "component" "gateway" "volumes" yaml) */}}
{{- define "forebay.volumes" -}}
{{- $values := get .root.Values .component -}}
{{- include "forebay.merged" (dict "ours" (fromYamlArray .volumes) "extra" $values.extraVolumes "key" "name") -}}
{{- end }}
