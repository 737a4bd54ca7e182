# What `cloud-init status --format=json` of cloud-init 22.4 says of /run/cloud-init/status.json.

($code | if startswith("disabled") then "disabled" else "not run" end) as $before
| (if $code == "disabled-by-generator" then "Cloud-init disabled by cloud-init-generator"
   elif $code == "enabled-by-generator" then "Cloud-init enabled by systemd cloud-init-generator"
   else "Systemd generator may not have run yet." end) as $reason
| (.v1 // {}) as $v1
| [$v1[] | objects] as $stages
| [$stages[].errors[]] as $errors
| ([$stages[] | .start // 0, .finished // 0] | max // 0) as $latest
| {
    boot_status_code: $code,
    datasource: ($v1.datasource // "" | split(" ")[0] // "" | ascii_downcase | ltrimstr("datasource")),
    detail: (
      if $errors != [] then $errors | join("\n")
      elif $v1.stage then "Running in stage: " + $v1.stage
      else $v1.datasource // $reason end
    ),
    errors: $errors,
    last_update: (
      if $latest == 0 then "" else $latest | strftime("%a, %d %b %Y %H:%M:%S +0000") end
    ),
    status: (
      if $errors != [] then "error"
      elif $v1 == {} then $before
      elif $v1.stage or ($finished | not) then "running"
      else "done" end
    )
  }
| . + {schemas: {"1": .}, _schema_version: "1"}
