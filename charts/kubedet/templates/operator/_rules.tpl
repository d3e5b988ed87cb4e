{{/* The operator's rights on jobs and their children. It has none on Secrets: workers get them by reference. */}}
{{- define "kubedet.rules" -}}
# The operator deletes a job only after its ttlSecondsAfterFinished.
- apiGroups: [kubedet.dev]
  resources: [detectionjobs]
  verbs: [get, list, watch, delete]
- apiGroups: [kubedet.dev]
  resources: [detectionjobs/status]
  verbs: [update]
# Children block the deletion of their owner, which needs the right to its finalizers
# if OwnerReferencesPermissionEnforcement is on.
- apiGroups: [kubedet.dev]
  resources: [detectionjobs/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
# PodGroups, only for jobs with schedulingPolicy.gang Volcano or Coscheduling.
- apiGroups: [scheduling.volcano.sh, scheduling.x-k8s.io]
  resources: [podgroups]
  verbs: [create, patch]
{{- end }}
