{{/* Name of the release's objects: the release's, with the chart's where that does not say it already. */}}
{{- define "kubedet.fullname" -}}
{{- ternary .Release.Name (printf "%s-kubedet" .Release.Name) (contains "kubedet" .Release.Name) | trunc 48 | trimSuffix "-" }}
{{- end }}

{{- define "kubedet.operatorName" -}}
{{ include "kubedet.fullname" . }}-operator
{{- end }}

{{- define "kubedet.serviceAccountName" -}}
{{- default (ternary (include "kubedet.operatorName" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{/* What finds the operator's pods. The instance is not in it: the Lease allows one release a namespace. */}}
{{- define "kubedet.operatorSelector" -}}
app.kubernetes.io/name: kubedet
app.kubernetes.io/component: operator
{{- end }}

{{/* Labels of an object: (list . "component"). Helm adds app.kubernetes.io/managed-by itself. */}}
{{- define "kubedet.labels" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: kubedet
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
{{- end }}

{{/* Reference of an image: (list . .Values.x.image). */}}
{{- define "kubedet.image" -}}
{{- $ := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $image.registry }}{{ . }}/{{ end -}}
{{ $image.repository }}:{{ default $.Chart.AppVersion $image.tag }}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{/* The namespaces that are served, as {"items": [...]}; the empty name is the release's own, which
objects leave out so that `kubectl apply -n` may say it. */}}
{{- define "kubedet.namespaces" -}}
{{- if and (eq .Values.operator.scope "Cluster") .Values.operator.namespaces }}
{{- fail "operator.namespaces: must be empty with operator.scope Cluster, which serves them all" }}
{{- end }}
{{- dict "items" (default (list "") .Values.operator.namespaces) | toJson }}
{{- end }}

{{/* Pod and container by the restricted Pod Security Standard. */}}
{{- define "kubedet.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "kubedet.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
