{{/* What the operator may do to jobs and their children. It never reads Secrets: workers get them by reference. */}}
{{- define "kubedet.rules" -}}
# Jobs are deleted only when their ttlSecondsAfterFinished is over.
- apiGroups: [kubedet.dev]
  resources: [detectionjobs]
  verbs: [get, list, watch, delete]
- apiGroups: [kubedet.dev]
  resources: [detectionjobs/status]
  verbs: [update]
# Children name their job as an owner that waits for them to go, which takes the right to its finalizers
# where OwnerReferencesPermissionEnforcement is on.
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
# Only jobs with schedulingPolicy.gang Volcano or Coscheduling have a PodGroup.
- apiGroups: [scheduling.volcano.sh, scheduling.x-k8s.io]
  resources: [podgroups]
  verbs: [create, patch]
{{- end }}
