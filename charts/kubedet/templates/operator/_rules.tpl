{{/* The operator's rights on jobs and their children. It has none on Secrets: workers get them by reference. */}}
{{- define "kubedet.rules" -}}
# The operator deletes a job or a zoo only after its ttlSecondsAfterFinished. It creates, suspends and deletes
# jobs on behalf of zoos.
- apiGroups: [kubedet.dev]
  resources: [detectionjobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [kubedet.dev]
  resources: [modelzoos]
  verbs: [get, list, watch, delete]
- apiGroups: [kubedet.dev]
  resources: [detectionjobs/status, modelzoos/status]
  verbs: [update]
# Children block the deletion of their owner, which needs the right to its finalizers
# if OwnerReferencesPermissionEnforcement is on.
- apiGroups: [kubedet.dev]
  resources: [detectionjobs/finalizers, modelzoos/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
# PodGroups, only for jobs with schedulingPolicy.gang Volcano or Coscheduling.
- apiGroups: [scheduling.volcano.sh, scheduling.x-k8s.io]
  resources: [podgroups]
  verbs: [get, create, patch]
{{- end }}
