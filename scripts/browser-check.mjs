// The checks of scripts/browser-check: node browser-check.mjs PICTURES BINARY CHROMIUM, in a folder with the
// runs `run`, `stitched` and `refined`, the scan `scan.npz`, and the packages.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';

const require = createRequire(join(process.cwd(), 'here.js'));
const { chromium } = require('playwright-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

const [pictures, binary, executablePath] = process.argv.slice(2);
const SIZES = { desktop: { width: 1280, height: 900 }, phone: { width: 390, height: 844 } };
const problems = [];
let checks = 0;
const check = (good, text) => {
  checks += 1;
  if (!good) { problems.push(text); console.error(`FAILED  ${text}`); }
};

const browser = await chromium.launch({
  executablePath,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
});

// A page with everything it says and asks for written down.
const open = async (url, size, colorScheme) => {
  const context = await browser.newContext({ viewport: SIZES[size], colorScheme, bypassCSP: false });
  const page = await context.newPage();
  const said = [], asked = [];
  page.on('console', message => { if (['error', 'warning'].includes(message.type())) said.push(message.text()); });
  page.on('pageerror', error => said.push(String(error)));
  page.on('request', request => asked.push(request.url()));
  await page.goto(url);
  return { context, page, said, asked };
};

// axe-core goes in through the debugger, which the policy of the page does not concern.
const accessible = async (page, name) => {
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
  for (const violation of found.violations) {
    const nodes = violation.nodes.slice(0, 3).map(node => `${node.target.join(' ')}: ${node.failureSummary.replace(/\s+/g, ' ')}`);
    check(false, `${name}: axe ${violation.id}: ${violation.help}\n        ${nodes.join('\n        ')}`);
  }
  check(found.passes !== undefined, `${name}: axe ran`);
};

const fits = async (page, name) => {
  const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  check(wide <= room, `${name}: ${wide} pixels wide in a window of ${room}`);
};

const shot = (page, name, fullPage = true) => page.screenshot({ path: join(pictures, `${name}.png`), fullPage });

const keyboard = async (page, name) => {
  const stage = page.locator('.stage').first();
  const transform = () => page.locator('.stage .pan').first().evaluate(node => node.style.transform);
  await stage.focus();
  const before = await transform();
  await page.keyboard.press('+');
  await page.keyboard.press('+');
  check(await transform() !== before && /scale\(2\.5/.test(await transform()), `${name}: + zooms: ${await transform()}`);
  await page.keyboard.press('ArrowRight');
  const readout = page.locator('.readout').first();
  const said = await readout.textContent();
  check(/x [\d.−]+, y [\d.−]+ px/.test(said) && /amplitude [\d.]+/.test(said), `${name}: arrows say numbers: ${said}`);
  await page.keyboard.press('Shift+ArrowDown');
  check(await readout.textContent() !== said, `${name}: arrows move the cross`);
  await page.keyboard.press('-');
  await page.keyboard.press('0');
  check(/scale\(1\)/.test(await transform()), `${name}: 0 shows all: ${await transform()}`);

  const button = page.locator('[data-do=in]').first();
  await button.focus();
  await page.keyboard.press('Enter');
  check(/scale\(1\.6/.test(await transform()), `${name}: the button zooms: ${await transform()}`);
  await page.locator('[data-do=all]').first().click();

  const toggle = page.locator('#theme');
  const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const was = await paper();
  await toggle.focus();
  await page.keyboard.press('Enter');
  check(await paper() !== was, `${name}: the toggle changes the colours`);
  await page.keyboard.press('Enter');
  check(await paper() === was, `${name}: the toggle changes them back`);
};

const slider = async (page, name) => {
  const range = page.locator('input[type=range]').first();
  const clip = () => page.locator('.over').first().evaluate(node => getComputedStyle(node).clipPath);
  const before = await clip();
  await range.focus();
  for (let i = 0; i < 10; i++) await page.keyboard.press('ArrowRight');
  check(await range.inputValue() === '60' && await clip() !== before, `${name}: arrow keys move the border: ${await clip()}`);
  await page.keyboard.press('Home');
  check(/100%/.test(await clip()), `${name}: Home shows the second alone: ${await clip()}`);
};

const wheel = async (page, name) => {
  const stage = page.locator('.stage').first();
  await stage.scrollIntoViewIfNeeded();
  const box = await stage.boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  const readout = await page.locator('.readout').first().textContent();
  check(/amplitude/.test(readout), `${name}: the pointer says numbers: ${readout}`);
  await page.mouse.click(box.x + box.width / 2, box.y + box.height / 2);
  await page.mouse.wheel(0, -300);
  await page.waitForTimeout(100);
  const scale = await page.locator('.stage .pan').first().evaluate(node => node.style.transform);
  check(/scale\(2\.7/.test(scale), `${name}: the wheel zooms: ${scale}`);
};

// Every alternative text says something.
const worded = async (page, name) => {
  const silent = await page.evaluate(() => [...document.images].filter(image => image.alt.length < 5).length);
  check(silent === 0, `${name}: ${silent} pictures without words`);
};

const reports = async () => {
  for (const run of ['run', 'stitched', 'refined']) {
    const url = `file://${resolve(run, 'report.html')}`;
    for (const size of Object.keys(SIZES)) {
      for (const scheme of ['light', 'dark']) {
        const name = `${run}-${size}-${scheme}`;
        const { context, page, said, asked } = await open(url, size, scheme);
        await shot(page, name);
        await accessible(page, name);
        await fits(page, name);
        await worded(page, name);
        check(asked.filter(address => !address.startsWith('data:')).length === 1, `${name}: asks for ${asked.slice(0, 3)}`);
        if (run !== 'run' && scheme === 'light') await keyboard(page, name);
        if (run === 'refined') await slider(page, name);
        if (run === 'refined' && size === 'desktop') {
          await wheel(page, name);
          await page.locator('#object').scrollIntoViewIfNeeded();
          await shot(page, `${name}-zoomed`, false);
        }
        check(said.length === 0, `${name}: the console says ${said.join(' | ')}`);
        await context.close();
      }
    }
  }
};

const start = args => new Promise((done, failed) => {
  const child = spawn(binary, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let text = '';
  child.stderr.on('data', piece => {
    text += piece;
    const address = /live: (http:\S+)/.exec(text);
    if (address) done({ child, address: address[1] });
  });
  child.ended = new Promise(end => child.on('exit', code => { end(code); failed(new Error(text)); }));
});

const until = async (what, name, seconds = 240) => {
  const end = Date.now() + 1000 * seconds;
  while (Date.now() < end) {
    if (await what()) return;
    await new Promise(rest => setTimeout(rest, 100));
  }
  check(false, `${name}: waited ${seconds} s in vain`);
};

const number = async (page, id) => Number((await page.locator(`#${id}`).textContent()).replace('−', '-')) || 0;

const liveTraining = async () => {
  const { child, address } = await start(['train', '--train-data-file', 'scan.npz', '--output-dir', `watched-${Date.now()}`,
    '--max-epochs', '5000', '--n-images', '32', '--batch-size', '8', '--n-filters-scale', '1', '--validation-split', '0.1',
    '--device', 'cpu', '--quiet', '--live', '0']);
  for (const size of Object.keys(SIZES)) {
    for (const scheme of ['light', 'dark']) {
      const name = `live-${size}-${scheme}`;
      const { context, page, said } = await open(address, size, scheme);
      await until(async () => await number(page, 'epoch') > 5 && await page.locator('#complex').isVisible(), name);
      await page.waitForTimeout(600);
      await shot(page, name);
      await accessible(page, name);
      await fits(page, name);
      check(said.length === 0, `${name}: the console says ${said.join(' | ')}`);
      await context.close();
    }
  }
  const { context, page } = await open(address, 'desktop', 'light');
  await until(async () => /Running/.test(await page.locator('#said').textContent()), 'live');
  await page.locator('#checkpoint').focus();
  await page.keyboard.press('Enter');
  await until(async () => /Written: checkpoints/.test(await page.locator('#note').textContent()), 'live: checkpoint');
  await page.locator('#stop').focus();
  await page.keyboard.press('Enter');
  const code = await child.ended;
  check(code === 0, `live: a stopped run ends well: ${code}`);
  await until(async () => /ended/.test(await page.locator('#said').textContent()), 'live: the end', 5);
  await shot(page, 'live-ended');
  await context.close();
};

// A thousand epochs of a small scan: elements and their texts do not grow.
const manyUpdates = async () => {
  const { child, address } = await start(['reconstruct', 'small.npz', '--output-dir', `many-${Date.now()}`, '--epochs', '20000',
    '--patience', '30000', '--device', 'cpu', '--quiet', '--no-report', '--live', '0']);
  const { context, page, said } = await open(address, 'desktop', 'light');
  await page.evaluate(() => {
    globalThis.updates = 0;
    new MutationObserver(() => { globalThis.updates += 1; })
      .observe(document.getElementById('epoch'), { childList: true, characterData: true, subtree: true });
  });
  const size = () => page.evaluate(() => [document.querySelectorAll('*').length, document.documentElement.outerHTML.length]);
  await until(() => page.evaluate(() => globalThis.updates >= 450), 'many updates');
  const [nodes, characters] = await size();
  await until(() => page.evaluate(() => globalThis.updates >= 1450), 'many updates');
  const [nodesAfter, charactersAfter] = await size();
  check(nodesAfter === nodes, `a thousand updates: ${nodes} elements became ${nodesAfter}`);
  check(charactersAfter < characters + 6000, `a thousand updates: ${characters} characters became ${charactersAfter}`);
  check(said.length === 0, `a thousand updates: the console says ${said.join(' | ')}`);
  console.log(`a thousand updates: ${nodes} → ${nodesAfter} elements, ${characters} → ${charactersAfter} characters`);
  await shot(page, 'live-many');
  await page.locator('#stop').click();
  check(await child.ended === 0, 'many updates: the run ends well');
  await context.close();
};

const only = process.env.BROWSER_CHECK_ONLY;
for (const [name, part] of Object.entries({ reports, liveTraining, manyUpdates })) {
  if (!only || only === name) await part();
}
await browser.close();
console.log(`${checks - problems.length} of ${checks} checks passed; pictures in ${pictures}`);
process.exit(problems.length ? 1 : 0);
