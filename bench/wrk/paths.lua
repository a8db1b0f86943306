-- Small requests over 64 different paths, so that policies that hash the path spread them.
local here = debug.getinfo(1, "S").source:match("@(.*/)") or ""
dofile(here .. "report.lua")

local messages, number = {}, 0

function init()
  for i = 1, 64 do
    messages[i] = wrk.format("GET", "/small/" .. i)
  end
end

function request()
  number = number % 64 + 1
  return messages[number]
end
