-- Health of a QuantizationJob for Argo CD, from its kstatus conditions.
-- Healthy: the artifact is there. Progressing: it waits, is queued or runs. Suspended: paused by spec.suspend.
-- Degraded: failed, with the cause and what to change.
local status = obj.status
if status == nil or status.conditions == nil then
  return {status = "Progressing", message = "the operator has not seen the job yet"}
end
if obj.metadata.generation ~= nil and status.observedGeneration ~= nil
    and status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "the operator has not seen the change yet"}
end

local held = {}
for _, condition in ipairs(status.conditions) do
  if condition.status == "True" then
    held[condition.type] = condition
  end
end

if held.Ready then
  return {status = "Healthy", message = held.Ready.message}
end
if held.Stalled then
  local message = held.Stalled.reason .. ": " .. held.Stalled.message
  if status.failure ~= nil and status.failure.hint ~= nil then
    message = message .. " " .. status.failure.hint
  end
  return {status = "Degraded", message = message}
end
if held.Suspended then
  return {status = "Suspended", message = held.Suspended.message}
end

local message = "the job is in progress"
if held.Reconciling then
  message = held.Reconciling.reason .. ": " .. held.Reconciling.message
end
if held.Reconciling and held.Reconciling.reason == "Running" and status.progress ~= nil then
  message = message .. " (" .. status.progress.percent .. " %)"
end
return {status = "Progressing", message = message}
