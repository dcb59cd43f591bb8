{{/* A reference of an image: the given one, else REGISTRY/NAME:VERSION. */}}
{{- define "quantization.image" -}}
{{- if .given }}{{ .given }}{{ else }}{{ with .root.Values.images.registry }}{{ . }}/{{ end }}{{ .name }}:{{ .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The settings as the operator's environment: strings as they are, all else as JSON. */}}
{{- define "quantization.settings" -}}
{{- $data := dict }}
{{- $_ := set $data "QUANTIZATION_OPERATOR_QUANTIZER_IMAGE" (include "quantization.image" (dict "root" . "name" "quantizer" "given" .Values.images.quantizer)) }}
{{- $_ := set $data "QUANTIZATION_OPERATOR_LEGACY_IMAGE" (include "quantization.image" (dict "root" . "name" "quantizer-legacy" "given" .Values.images.legacy)) }}
{{- if .Values.namespaces }}
{{- $_ := set $data "QUANTIZATION_OPERATOR_NAMESPACES" (toJson .Values.namespaces) }}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{- $text := $value }}
{{- if not (kindIs "string" $value) }}{{ $text = toJson $value }}{{ end }}
{{- $_ := set $data (printf "QUANTIZATION_OPERATOR_%s" (snakecase $name | upper)) $text }}
{{- end }}
{{- toYaml $data }}
{{- end }}

{{/* Changed settings make another ConfigMap, which restarts the operator. */}}
{{- define "quantization.configName" -}}
quantization-operator-{{ include "quantization.settings" . | sha256sum | trunc 10 }}
{{- end }}

{{/* The defaults of jobs: those given, else those shipped; with the queue. Empty where nothing is changed. */}}
{{- define "quantization.defaults" -}}
{{- $values := .root.Values }}
{{- if or $values.defaults $values.queueName }}
{{- $defaults := $values.defaults | default (fromYaml .shipped) | deepCopy }}
{{- with $values.queueName }}
{{- if hasKey $defaults "queueName" }}{{ fail "queueName and defaults.queueName are the same: name the queue once" }}{{ end }}
{{- $_ := set $defaults "queueName" . }}
{{- end }}
{{- toYaml $defaults }}
{{- end }}
{{- end }}

{{/* What the values change of the Deployment. */}}
{{- define "quantization.deployment" -}}
{{- $values := .root.Values }}
{{- $template := .object.spec.template }}
{{- $pod := $template.spec }}
{{- $container := first $pod.containers }}
{{- $_ := set .object.spec "replicas" (int $values.replicas) }}
{{- $_ := set $container "image" (include "quantization.image" (dict "root" .root "name" "quantization-operator" "given" $values.images.operator)) }}
{{- $_ := set (first $container.envFrom).configMapRef "name" (include "quantization.configName" .root) }}
{{- with $values.resources }}{{ $_ := set $container "resources" . }}{{ end }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "imagePullSecrets" }}
{{- with index $values $field }}{{ $_ := set $pod $field . }}{{ end }}
{{- end }}
{{- if $values.platformChoosesUser }}
{{- $_ := set $pod "securityContext" (omit $pod.securityContext "runAsUser" "runAsGroup") }}
{{- end }}
{{- $_ := set $template.metadata "labels" (merge (dict) $template.metadata.labels $values.podLabels) }}
{{- $_ := set $template.metadata "annotations" (merge (dict) $values.podAnnotations $template.metadata.annotations) }}
{{- end }}
