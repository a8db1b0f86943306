-- POST of 64 KiB with a Content-Length.
local here = debug.getinfo(1, "S").source:match("@(.*/)") or ""
dofile(here .. "report.lua")

wrk.method = "POST"
wrk.body = string.rep("x", 64 * 1024)
wrk.headers["Content-Type"] = "application/octet-stream"
