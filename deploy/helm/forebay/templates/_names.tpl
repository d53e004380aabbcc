{{/* Names and labels. */}}

{{- define "forebay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* At most 40 characters, so that what is derived from it keeps within 63; no dots, which a Service may not have. */}}
{{- define "forebay.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "forebay.name" .) .Release.Name -}}
{{- .Release.Name | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "forebay.name" .) | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Of one component: (dict "root" $ "component" "gateway"). */}}
{{- define "forebay.selector" -}}
app.kubernetes.io/name: {{ include "forebay.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Of worker pods: the operator makes them and knows the release by its full name only. */}}
{{- define "forebay.workerSelector" -}}
app.kubernetes.io/name: forebay
app.kubernetes.io/instance: {{ include "forebay.fullname" . }}
app.kubernetes.io/component: worker
{{- end }}

{{- define "forebay.labels" -}}
{{- $ours := include "forebay.selector" . | fromYaml -}}
{{- $_ := set $ours "app.kubernetes.io/part-of" "forebay" -}}
{{- $_ := set $ours "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $ours "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $ours "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") -}}
{{- merge $ours .root.Values.commonLabels | toYaml -}}
{{- end }}

{{/* The beginning of every object's metadata: (dict "root" $ "component" "gateway" "name" "…"). */}}
{{- define "forebay.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "forebay.labels" . | nindent 2 }}
{{- end }}

{{/* (dict "root" $ "component" "gateway") */}}
{{- define "forebay.serviceAccountName" -}}
{{- $account := (get .root.Values .component).serviceAccount -}}
{{- if $account.create -}}
{{- default (printf "%s-%s" (include "forebay.fullname" .root) .component) $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end }}

{{/* (dict "root" $ "image" .Values.image) */}}
{{- define "forebay.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end }}

{{/* Where workers and gateways find the operators: a headless Service, all of whose addresses they try. */}}
{{- define "forebay.operatorTarget" -}}
{{- printf "%s-operator.%s.svc:9443" (include "forebay.fullname" .) .Release.Namespace -}}
{{- end }}

{{/* What series are labelled with, so that one Prometheus can scrape several releases. */}}
{{- define "forebay.metricsRelease" -}}
{{- default (printf "%s/%s" .Release.Namespace (include "forebay.fullname" .)) .Values.metrics.release -}}
{{- end }}

{{- define "forebay.gatewayUrl" -}}
{{- $gateway := .Values.gateway -}}
{{- if $gateway.url -}}
{{- trimSuffix "/" $gateway.url -}}
{{- else -}}
{{- $scheme := ternary "https" "http" (and (ne $gateway.domain "") $gateway.ingress.enabled (gt (len $gateway.ingress.tls) 0)) -}}
{{- /* Of a host what counts is where its Ingress or route listens, which is the scheme's port unless url says another. */ -}}
{{- $fronted := and (ne $gateway.domain "") (or $gateway.ingress.enabled $gateway.httpRoute.enabled) -}}
{{- $port := ternary "" (printf ":%d" (int $gateway.service.port)) (or $fronted (eq (int $gateway.service.port) 80)) -}}
{{- printf "%s://%s-gateway.%s.svc.%s%s" $scheme (include "forebay.fullname" .) .Release.Namespace .Values.clusterDomain $port -}}
{{- end -}}
{{- end }}
