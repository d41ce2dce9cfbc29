{{- define "kubetune.labels" -}}
app.kubernetes.io/name: kubetune
{{- end -}}
