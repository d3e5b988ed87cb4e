{{/* Name of the release's objects: the release's name, with the chart's name appended unless it contains it. */}}
{{- define "kubedet.fullname" -}}
{{- ternary .Release.Name (printf "%s-kubedet" .Release.Name) (contains "kubedet" .Release.Name) | trunc 48 | trimSuffix "-" }}
{{- end }}

{{- define "kubedet.operatorName" -}}
{{ include "kubedet.fullname" . }}-operator
{{- end }}

{{- define "kubedet.serviceAccountName" -}}
{{- default (ternary (include "kubedet.operatorName" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{/* Selects the operator's pods. It leaves out the instance: the Lease allows one release in a namespace. */}}
{{- define "kubedet.operatorSelector" -}}
app.kubernetes.io/name: kubedet
app.kubernetes.io/component: operator
{{- end }}

{{/* Labels of an object: (list . "component"). Helm adds app.kubernetes.io/managed-by itself. */}}
{{- define "kubedet.labels" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: kubedet
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/instance: {{ $.Release.Name | quote }}
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

{{/* The served namespaces, as {"items": [...]}. The empty name stands for the release's namespace, which
objects leave out so that `kubectl apply -n` can set it. */}}
{{- define "kubedet.namespaces" -}}
{{- if eq (int .Values.operator.metricsPort) (int .Values.operator.healthPort) }}
{{- fail (printf "operator.healthPort: got %d, must differ from operator.metricsPort; both are ports of one container" (int .Values.operator.healthPort)) }}
{{- end }}
{{- if and (eq .Values.operator.scope "Cluster") .Values.operator.namespaces }}
{{- fail "operator.namespaces: must be empty with operator.scope Cluster, which serves all namespaces" }}
{{- end }}
{{- dict "items" (default (list "") .Values.operator.namespaces) | toJson }}
{{- end }}

{{/* Pod and container as the Pod Security level restricted requires. */}}
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
