// The page, the devices that are on it, and a browser that looks at it.
import { spawn } from "node:child_process";
import net from "node:net";
import { chromium } from "playwright-core";

/** A page whose devices do what `say` says; see readings/examples/stage.rs. */
export async function startStage(address = "127.0.0.1:0") {
  const child = spawn(process.env.STAGE, [address], { stdio: ["pipe", "pipe", "inherit"] });
  const url = await new Promise((told, failed) => {
    child.stdout.once("data", (line) => told(String(line).trim()));
    child.once("exit", () => failed(new Error("the stage ended")));
  });
  return {
    url,
    say: (...lines) => lines.forEach((line) => child.stdin.write(`${line}\n`)),
    stop: () => new Promise((ended) => child.once("exit", ended).kill("SIGKILL")),
  };
}

/** A connection to the stage that can be held up: nothing comes through as long as `held` says so, or only so much later. */
export async function startProxy(url) {
  const { hostname, port } = new URL(url);
  const state = { held: false, late: 0 };
  const server = net.createServer((browser) => {
    const page = net.connect(port, hostname);
    const end = () => [browser, page].forEach((socket) => socket.destroy());
    for (const socket of [browser, page]) socket.on("error", end).on("close", end);
    browser.on("data", (data) => page.write(data));
    page.on("data", (data) => setTimeout(() => {
      if (!state.held) browser.write(data);
    }, state.late));
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return { url: `http://127.0.0.1:${server.address().port}`, state, stop: () => server.close() };
}

let browser;
export const startBrowser = async () => {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
};
export const stopBrowser = () => browser.close();

/** Opens the page, and notes what must not happen on it. */
export async function open(url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 720 }, ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("dialog", (dialog) => complaints.push(dialog.message()) && dialog.dismiss());
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin) complaints.push(request.url());
  });
  await page.addInitScript(() => {
    window.longest = 0;
    new PerformanceObserver((list) => {
      for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration);
    }).observe({ entryTypes: ["longtask"] });
  });
  await page.goto(url);
  return { page, complaints, close: () => context.close() };
}

/** The row of a device. */
export const row = (page, device) => page.locator("tbody tr", { has: page.getByText(device, { exact: true }) });

/** Everything that the page says of its connection. */
export const connection = (page) => page.locator("#connection");
