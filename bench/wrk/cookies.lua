-- A GET as a browser with a history sends it: 20 headers, 1 KiB of cookies.
local here = debug.getinfo(1, "S").source:match("@(.*/)") or ""
dofile(here .. "report.lua")

local cookies = {}
for number = 1, 16 do
  cookies[number] = string.format("preference_%02d=%s", number, string.rep("0123456789abcdef", 3))
end

local headers = {
  ["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
  ["Accept-Encoding"] = "gzip, deflate, br, zstd",
  ["Accept-Language"] = "en-GB,en;q=0.9,de;q=0.8,fr;q=0.7",
  ["Cache-Control"] = "no-cache",
  ["Cookie"] = table.concat(cookies, "; "),
  ["DNT"] = "1",
  ["If-None-Match"] = "W/\"5f3a-18c2b7a1f00\"",
  ["Origin"] = "https://shop.example",
  ["Pragma"] = "no-cache",
  ["Priority"] = "u=0, i",
  ["Referer"] = "https://shop.example/catalogue/shoes?page=3&sort=price",
  ["Sec-Ch-Ua"] = "\"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"",
  ["Sec-Ch-Ua-Mobile"] = "?0",
  ["Sec-Ch-Ua-Platform"] = "\"Linux\"",
  ["Sec-Fetch-Dest"] = "document",
  ["Sec-Fetch-Mode"] = "navigate",
  ["Sec-Fetch-Site"] = "same-origin",
  ["Upgrade-Insecure-Requests"] = "1",
  ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
}
for name, value in pairs(headers) do -- with Host they are 20
  wrk.headers[name] = value
end
