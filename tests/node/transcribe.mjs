// Streams 24 kHz PCM16 from stdin through one of the SDK's clients and prints the transcript.
// Arguments: the client (ws, browser or beta), the base URL, the API key.

import { readFileSync } from 'node:fs';
import OpenAI from 'openai';

const CHUNK_BYTES = 2400;
const [kind, baseURL, apiKey] = process.argv.slice(2);
const openai = new OpenAI({ baseURL, apiKey });

async function connect() {
  const props = { intent: 'transcription' };
  if (kind === 'browser') {
    const { OpenAIRealtimeWebSocket } = await import('openai/realtime/websocket');
    return new OpenAIRealtimeWebSocket({ ...props, dangerouslyAllowBrowser: true }, openai);
  }
  if (kind === 'beta') {
    const { OpenAIRealtimeWS } = await import('openai/beta/realtime/ws');
    return new OpenAIRealtimeWS({ model: 'gpt-4o-transcribe' }, openai);
  }
  const { OpenAIRealtimeWS } = await import('openai/realtime/ws');
  return new OpenAIRealtimeWS(props, openai);
}

function sessionUpdate() {
  if (kind === 'beta') {
    const session = { input_audio_format: 'pcm16', turn_detection: null };
    return { type: 'transcription_session.update', session };
  }
  const input = { format: { type: 'audio/pcm', rate: 24000 }, turn_detection: null };
  return { type: 'session.update', session: { type: 'transcription', audio: { input } } };
}

function speak() {
  connection.send(sessionUpdate());
  const audio = readFileSync(0);
  for (let at = 0; at < audio.length; at += CHUNK_BYTES) {
    const chunk = audio.subarray(at, at + CHUNK_BYTES).toString('base64');
    connection.send({ type: 'input_audio_buffer.append', audio: chunk });
  }
  connection.send({ type: 'input_audio_buffer.commit' });
}

const connection = await connect();
connection.on('error', (error) => {
  console.error(error.message);
  process.exit(1);
});
connection.on('session.created', speak);
connection.on('transcription_session.created', speak);
connection.on('conversation.item.input_audio_transcription.completed', (event) => {
  console.log(event.transcript);
  connection.close();
});
