#compdef mlflowctl

_mlflowctl_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _MLFLOWCTL_COMPLETE=complete_zsh mlflowctl)
}

compdef _mlflowctl_completion mlflowctl
