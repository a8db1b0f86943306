-- POST of 1 KiB in four chunks. The message is written out: wrk itself would add a Content-Length.
local here = debug.getinfo(1, "S").source:match("@(.*/)") or ""
dofile(here .. "report.lua")

local chunk = "100\r\n" .. string.rep("x", 256) .. "\r\n"
local message

function init()
  message = "POST / HTTP/1.1\r\nHost: " .. wrk.headers["Host"]
    .. "\r\nTransfer-Encoding: chunked\r\nContent-Type: application/octet-stream\r\n\r\n"
    .. string.rep(chunk, 4) .. "0\r\n\r\n"
end

function request()
  return message
end
